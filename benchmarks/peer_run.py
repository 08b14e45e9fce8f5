"""One technique on one set of rows, as a process of its own: `python peer_run.py JOB.json`. Started by peers.py.

The job names a technique, a model folder, a seed, settings, and a folder with train, validation and test rows. What
comes back beside the job:
`probabilities.npy` [test rows, labels] and `facts.json`. Nothing of clfm-kit is imported unless the technique is
ours, so that a peer runs in whatever environment it needs. Settings are those of each peer's own documentation unless
the job says otherwise.
"""
import json
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGES = (
    "clfm-kit", "clfm-kit-stc", "torch", "transformers", "peft", "setfit", "sentence-transformers",
    "scikit-learn", "numpy",
)


def tfidf(job, train, validation, test):
    """scikit-learn's pipeline: words and word pairs, logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), _each(job, LogisticRegression(C=10, max_iter=1000))
    )
    model.fit(train[0], _targets(job, train[1]))
    return lambda: _columns(model.classes_, model.predict_proba(test[0]), job), _size(model[-1])


def embeddings(job, train, validation, test):
    """sentence-transformers vectors and logistic regression, as MTEB does it."""
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression
    encoder = SentenceTransformer(job["model"])
    encode = lambda texts: encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    model = _each(
        job, LogisticRegression(max_iter=job["settings"].get("max_iter", 1000), random_state=job["seed"])
    ).fit(encode(train[0]), _targets(job, train[1]))
    return lambda: _columns(model.classes_, model.predict_proba(encode(test[0])), job), _size(model)


def setfit(job, train, validation, test):
    """SetFit: contrastive pairs, then logistic regression; one epoch over the pairs, batches of 16."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    more = {"multi_target_strategy": "one-vs-rest"} if job["several"] else {}
    model = SetFitModel.from_pretrained(job["model"], **more)
    rows = Dataset.from_dict({"text": train[0], "label": list(_targets(job, train[1]))})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, seed=job["seed"], report_to="none", save_strategy="no", show_progress_bar=False,
            **{"batch_size": 16, "num_epochs": 1, **job["settings"]},
        )
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    weights = sum(weight.numel() for weight in model.model_body.parameters()) + _size(model.model_head)
    return (
        lambda: _columns(
            model.model_head.classes_, np.asarray(model.predict_proba(test[0], show_progress_bar=False)), job
        ),
        weights,
    )


def finetune(job, train, validation, test):
    """Every weight moves, with the defaults of transformers' Trainer: 3 epochs, 5e-5, batches of 8."""
    return _trainer(job, train, test, lambda model: model, dict(num_train_epochs=3))


def lora(job, train, validation, test):
    """peft's example for text classification: rank 8, 3e-4."""
    from peft import LoraConfig
    return _adapter(job, train, test, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.1), 3e-4)


def prefix(job, train, validation, test):
    """peft's example for text classification: 20 virtual tokens, 1e-2."""
    from peft import PrefixTuningConfig
    return _adapter(job, train, test, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=20), 1e-2)


def shira(job, train, validation, test):
    """peft's sparse weights at random places of the attention, as many as rank 8 would have. peft has no example for
    text; with LoRA's 3e-4 it does not leave its start, so ten times that.
    """
    from peft import ShiraConfig
    return _adapter(
        job, train, test,
        ShiraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"], random_seed=job["seed"]), 3e-3,
    )


def _adapter(job, train, test, config, learning_rate):
    from peft import get_peft_model
    return _trainer(
        job, train, test, lambda model: get_peft_model(model, config),
        dict(num_train_epochs=20, learning_rate=learning_rate, per_device_train_batch_size=32),
    )


def _trainer(job, train, test, prepare, settings):
    """Train with transformers' Trainer, every batch padded to its longest row."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,
        TrainingArguments, set_seed,
    )
    set_seed(job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = prepare(AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=len(job["labels"]), **_problem(job)
    ))
    column = {label: number for number, label in enumerate(job["labels"])}
    as_columns = lambda given: [column[label] for label in given]
    labels = _targets(job, train[1]).astype(np.float32).tolist() if job["several"] else as_columns(train[1])
    encode = lambda texts, **more: Dataset.from_dict({**tokenizer(texts, truncation=True, max_length=256), **more})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, seed=job["seed"], report_to="none", save_strategy="no", disable_tqdm=True,
            **{**settings, **job["settings"]},
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=encode(train[0], label=labels),
                          processing_class=tokenizer, data_collator=DataCollatorWithPadding(tokenizer))
        trainer.train()
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    shares = torch.sigmoid if job["several"] else lambda logits: logits.softmax(1)
    return lambda: shares(torch.tensor(trainer.predict(encode(test[0])).predictions)).numpy(), weights


def _problem(job): return {"problem_type": "multi_label_classification"} if job["several"] else {}


def ours(recipe):
    """A recipe of clfm-kit, with an empty state cache."""
    def run(job, train, validation, test):
        from clfm_kit import Classifier
        from clfm_kit.classifier.artifacts import head_state
        from clfm_kit.data.rows import Rows
        settings = [f"seed={job['seed']}", *job["settings"].get("settings", [])]
        clf = Classifier(recipe, job["model"], settings, cache=None)
        clf.fit(Rows(*train), validation=Rows(*validation) if validation[0] else None)
        weights = sum(tensor.numel() for tensor in head_state(clf.task().head)[0].values())
        return lambda: _columns(clf.classes_, clf.predict_proba(test[0]), job), weights
    return run


TECHNIQUES = {
    "tfidf": tfidf, "embeddings": embeddings, "setfit": setfit, "finetune": finetune, "lora": lora,
    "prefix": prefix, "shira": shira,
}


def _each(job, model):
    """The model as it is, or one of its kind for each label where texts have several."""
    from sklearn.multiclass import OneVsRestClassifier
    return OneVsRestClassifier(model) if job["several"] else model


def _targets(job, labels):
    """Labels as names, or as zeros and ones [rows, labels] where texts have several."""
    if not job["several"]: return labels
    return np.array([[name in found for name in job["labels"]] for found in labels], dtype=int)


def _size(model):
    return sum(part.coef_.size for part in getattr(model, "estimators_", [model]) if hasattr(part, "coef_"))


def _columns(classes, probabilities, job):
    """Probabilities in the column order of the job's labels."""
    if not isinstance(classes[0], str): return np.asarray(probabilities)  # zeros and ones were given in that order
    place = {label: number for number, label in enumerate(job["labels"])}
    found = np.zeros((len(probabilities), len(place)))
    found[:, [place[str(label)] for label in classes]] = probabilities
    return found


def _rows(path):
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line["text"] for line in lines], [line["label"] for line in lines]


def _versions():
    found = {}
    for package in PACKAGES:
        try: found[package] = version(package)
        except PackageNotFoundError: continue
    return found | {"python": sys.version.split()[0]}


def main(path):
    job, folder = json.loads(path.read_text(encoding="utf-8")), path.parent
    parts = [_rows(folder / f"{part}.jsonl") for part in ("train", "validation", "test")]
    name = job["technique"]
    run = ours(name.removeprefix("clfm:")) if name.startswith("clfm:") else TECHNIQUES[name]
    started = time.perf_counter()
    answer, weights = run(job, *parts)
    fitted = time.perf_counter()
    probabilities = np.asarray(answer(), dtype=np.float64)
    facts = dict(
        fit_seconds=fitted - started, predict_seconds=time.perf_counter() - fitted, trained_weights=int(weights),
        versions=_versions(),
    )
    np.save(folder / "probabilities.npy", probabilities)
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__": main(Path(sys.argv[1]))
