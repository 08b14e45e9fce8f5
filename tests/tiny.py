"""A small model of the kit's own, so that tests need neither a network nor the demo encoder."""


def save_tiny(folder) -> str:
    """Write a three-block BERT with random weights and a tokenizer of the words of the shipped messages;
    returns its folder.
    """
    from collections import Counter

    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from clfm_kit import load_data
    normal, apart = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = [normal.normalize_str(text) for text in load_data("helpdesk").train.texts]
    counted = Counter(word for text in texts for word, _ in apart.pre_tokenize_str(text))
    letters = sorted(set().union(*counted))
    # a trainer breaks ties as it likes, and each run would have another vocabulary
    common = sorted(counted, key=lambda word: (-counted[word], word))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *common]
    vocabulary = {piece: number for number, piece in enumerate(list(dict.fromkeys(pieces))[:2000])}
    words = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normal, apart
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128,
    )
    torch.manual_seed(0)
    model = BertModel(BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128,
    ))
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return str(folder)
