"""Run in a fresh environment: recipes.py PLUGIN — each recipe that the plugin offers is fitted, saved, loaded and asked, on a small decoder with random weights.

A recipe that takes more than one task is fitted by its plugin's own tests; here it must build its parts.
"""
import sys
import tempfile
from pathlib import Path

import torch
from clfm_kit import Classifier, Recipe, catalogue, load_data
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def decoder(folder, texts):
    """Save a decoder of six blocks and a tokenizer trained on `texts`; returns the folder."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    words.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1000, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512)
    torch.manual_seed(0)
    shape = dict(hidden_size=64, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128, max_position_embeddings=512)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape))
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return str(folder)


with tempfile.TemporaryDirectory() as place:
    rows = load_data("helpdesk").train
    kept = [n for n, label in enumerate(rows.labels) if label in ("track_order", "return_item", "refund_status")][:90]
    few, model = rows.take(kept), decoder(Path(place, "decoder"), rows.texts)
    names = [name for name, entry in catalogue.entries("recipe").items() if entry.plugin == sys.argv[1]]
    assert names, f"plugin {sys.argv[1]!r} offers no recipe"
    for name in names:
        recipe = Recipe.of(name)
        recipe.parts()
        if getattr(recipe, "tasks", None): continue
        short = ["training.epochs=2"] if recipe.training else []
        clf = Classifier(name, model, short, cache=None).fit(few.texts[:70], few.labels[:70], few.take(range(70, len(few))))
        again = Classifier.from_pretrained(clf.save_pretrained(Path(place, name)))
        assert (again.scores(few.texts[:5]) == clf.scores(few.texts[:5])).all(), f"recipe {name!r}: other scores after saving and loading"
        print(f"{name}: {clf.predict(few.texts[:3]).tolist()}")
