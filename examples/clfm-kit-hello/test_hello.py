from clfm_kit.testing import check_part


def test_head(): check_part("head", "hello")
