"""A small decoder with random weights, for checks that need one and no network."""
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def decoder(folder, texts):
    """Save a decoder of six blocks and a tokenizer trained on `texts`; returns the folder."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    words.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )
    torch.manual_seed(0)
    shape = dict(
        hidden_size=64, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape)
    )
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return str(folder)
