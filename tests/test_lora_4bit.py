"""Decoders, quantised bases and LoRA: every architecture through fit, save and reload, and what must be refused."""
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("clfm_kit_lora_4bit")
from clfm_kit import Classifier, UserError, load_data
from clfm_kit.backbones import Backbone

SIZES = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
LLAMA = dict(**SIZES, intermediate_size=128, num_key_value_heads=2, max_position_embeddings=128)
ARCHITECTURES = {
    "llama": ("LlamaConfig", LLAMA), "mistral": ("MistralConfig", dict(LLAMA, sliding_window=16)), "qwen3": ("Qwen3Config", dict(LLAMA, head_dim=16)), "gemma": ("GemmaConfig", dict(LLAMA, head_dim=16)),
    "gpt2": ("GPT2Config", dict(n_embd=64, n_layer=2, n_head=4, n_positions=128)), "opt": ("OPTConfig", dict(SIZES, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=128)),
    "phi": ("PhiConfig", dict(SIZES, intermediate_size=128, max_position_embeddings=128)), "t5": ("T5Config", dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)),
}
QUICK = ["training.epochs=2", "training.learning_rate=5e-3", "format.max_length=24"]


@pytest.fixture(scope="session")
def words():
    """A tokenizer with an end token and no padding token, as decoders have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    pieces.train_from_iterator(load_data("helpdesk").train.texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<end>", model_max_length=128)


@pytest.fixture(scope="session")
def decoder(words, tmp_path_factory):
    """A function that makes the folder of a small model with random weights, once an architecture."""
    import transformers
    folders = {}

    def make(name):
        if name not in folders:
            kind, sizes = ARCHITECTURES[name]
            config = getattr(transformers, kind)(vocab_size=len(words), bos_token_id=0, eos_token_id=0, pad_token_id=None, **sizes)
            if name == "t5": config.pad_token_id = 0
            torch.manual_seed(0)
            folders[name] = str(tmp_path_factory.mktemp(name))
            transformers.AutoModel.from_config(config).save_pretrained(folders[name]), words.save_pretrained(folders[name])
        return folders[name]

    return make


@pytest.fixture(scope="session")
def rows():
    data = load_data("helpdesk").train
    few = [row for row, label in enumerate(data.labels) if label in ("track_order", "login_problem", "return_item")][:72]
    return data.take(few)


RELOAD = textwrap.dedent("""
    import sys, json, numpy, torch
    torch.set_num_threads(1)
    from clfm_kit import Classifier
    folder, texts, out = sys.argv[1:]
    numpy.save(out, Classifier.from_pretrained(folder).scores(json.loads(texts)))
""")


def in_another_process(folder, texts, place):
    subprocess.run([sys.executable, "-c", RELOAD, str(folder), json.dumps(texts), str(place / "scores.npy")], check=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    return np.load(place / "scores.npy")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_in_4_bits_through_fit_save_and_reload(name, decoder, rows, tmp_path):
    fitted = Classifier("lora-4bit", decoder(name), settings=[*QUICK, "training.epochs=1"], cache=None).fit(rows.texts, rows.labels)
    assert any(p.dtype == torch.uint8 for p in fitted.backbone_.model.parameters())
    assert all(p.dtype == torch.float32 for p in fitted.head_.parameters())
    assert fitted.delta_.size == fitted.facts_["training"]["moving"] > 0
    fitted.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(Classifier.from_pretrained(tmp_path / "model").scores(rows.texts[:9]), fitted.scores(rows.texts[:9]))
