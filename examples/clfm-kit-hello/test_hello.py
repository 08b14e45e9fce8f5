from clfm_kit.testing import check_part


def test_hello(): check_part("head", "hello")
