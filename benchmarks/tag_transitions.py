"""Tags by independent words against a learned transition score (a linear-chain CRF), everything else equal.

    python benchmarks/tag_transitions.py --data helpdesk --data FOLDER [--rows 600] [--epochs 4] [--seeds 2]

Rows carry `slots` with `tokens`. Both sides move all weights of the base, with the same start, batches, rates and
epochs; the epoch is chosen by entity F1 on the validation rows. `independent` is what head `tags` does: log-loss over
words, then the likeliest sequence that BIO allows. `crf` adds a score for each pair of neighbouring tags, a start and
an end to the loss, and decodes with them under the same BIO rules. Training rows are cut to `--rows`, taken evenly.
"""
import argparse
import os
import sys
from copy import deepcopy

import numpy as np
import torch
from common import write
from torch import nn

SIDES = ("independent", "crf")


class Chain(nn.Module):
    """A score for each tag behind each tag, and for the first and the last."""

    def __init__(self, tags):
        super().__init__()
        self.step = nn.Parameter(torch.zeros(tags, tags))
        self.first, self.last = nn.Parameter(torch.zeros(tags)), nn.Parameter(torch.zeros(tags))

    def loss(self, logits, targets, lengths):
        """Minus log-probability of whole sequences, by word.

        Logits [B, T, C] and targets [B, T] are of texts with `lengths` [B] words.
        """
        rows, inside = torch.arange(len(logits)), torch.arange(logits.shape[1]) < lengths.unsqueeze(1)
        ends = self.first[targets[:, 0]] + self.last[targets[rows, lengths - 1]]
        own = (logits.gather(2, targets.unsqueeze(2)).squeeze(2) * inside).sum(1) + ends
        path = own + (self.step[targets[:, :-1], targets[:, 1:]] * inside[:, 1:]).sum(1)
        total = self.first + logits[:, 0]
        for place in range(1, logits.shape[1]):
            further = (total.unsqueeze(2) + self.step).logsumexp(1) + logits[:, place]
            total = torch.where(inside[:, place].unsqueeze(1), further, total)
        return ((total + self.last).logsumexp(1) - path).sum() / lengths.sum()

    def decode(self, logits, allowed):
        """The likeliest tags of one text: logits [T, C], `allowed` as from `clfm_kit.builtin.tags._allowed`."""
        step = self.step.detach().numpy() + allowed[:-1]
        best, back = logits[0] + self.first.detach().numpy() + allowed[-1], []
        for row in logits[1:]:
            paths = best[:, None] + step
            back.append(paths.argmax(0))
            best = paths.max(0) + row
        path = [int((best + self.last.detach().numpy()).argmax())]
        for places in reversed(back): path.append(int(places[path[-1]]))
        return path[::-1]


def states_of(encoder, batch):
    """States [words, D] of a batch at the last layer."""
    from clfm_kit.backbone.encoder import WORDS
    from clfm_kit.backbone.sites import hidden_site
    column = hidden_site(encoder.backbone.shape) + WORDS
    return encoder.read(batch, [column])[column]


def by_text(values, positions): return values.split([len(found) for found in positions])


def f1(side, encoder, linear, chain, examples):
    """Entity F1 of one side on examples."""
    from clfm_kit.backbone.batching import batches
    from clfm_kit.builtin.tags import _allowed, decode_tags
    from clfm_kit.data.words import repair
    from clfm_kit.evaluation.tags import evaluate_tags
    encoder.backbone.model.eval(), linear.eval()
    encoded, schema = examples.encoded, examples.schemas["slots"]
    allowed, tags = _allowed(schema), [None] * len(examples)
    for numbers in batches(encoded.lengths, encoded.counts, 4096):
        with torch.no_grad(): logits = linear(states_of(encoder, examples.batch(numbers)))
        for row, found in zip(numbers, by_text(logits, [encoded.positions[n] for n in numbers])):
            chances = found.softmax(-1).numpy().astype(float)
            if not len(found): tags[row] = []
            elif side == "independent": tags[row] = decode_tags(chances, schema)[0]
            else: tags[row] = [schema.labels[t] for t in chain.decode(found.numpy().astype(float), allowed)]
    gold = [repair(found)[0] for found in examples.rows.by_task["slots"]]
    return evaluate_tags(tags, gold)["entity_f1"]


def train(side, parts, arguments, seed):
    """Entity F1 on validation rows after each epoch and on test rows at the best."""
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit.backbone.encoder import TextEncoder
    from clfm_kit.data.tasks import read_tasks, task_schema
    from clfm_kit.parts import make
    from clfm_kit.training.batches import Examples
    torch.manual_seed(seed)
    task, = read_tasks({"slots": "slots"}).values()
    schema, backbone = task_schema(task, parts.train), Backbone.load(arguments.model)
    encoder = TextEncoder(backbone, make("format", "plain"), make("pooler", "mean"))
    examples = {part: Examples(encoder, rows, {"slots": schema}) for part, rows in parts.items()}
    linear, chain, drop = nn.Linear(backbone.shape.hidden, len(schema)), Chain(len(schema)), nn.Dropout(0.1)
    base, modules = list(backbone.model.parameters()), (backbone.model, linear, chain)
    heads = [*linear.parameters(), *(chain.parameters() if side == "crf" else ())]
    groups = [dict(params=base, lr=arguments.rate), dict(params=heads, lr=arguments.head_rate)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    steps = arguments.epochs * -(-len(parts.train) // arguments.batch)
    rate = lambda step: min((step + 1) / max(1, round(0.06 * steps)), (steps - step) / steps)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    best, seen = None, []
    for epoch in range(arguments.epochs):
        backbone.model.train(), linear.train()
        for rows in drawn(examples["train"], arguments.batch, seed + epoch):
            batch = examples["train"].batch(rows)
            logits = linear(drop(states_of(encoder, batch)))
            targets = batch["targets"]["slots"].clamp(min=0)  # words that are cut off are read as O
            if side == "crf":
                words = [examples["train"].encoded.positions[row] for row in rows]
                pad = lambda values: nn.utils.rnn.pad_sequence(by_text(values, words), batch_first=True)
                loss = chain.loss(pad(logits), pad(targets), torch.tensor(list(map(len, words))))
            else: loss = nn.functional.cross_entropy(logits, targets)
            optimizer.zero_grad(), loss.backward()
            torch.nn.utils.clip_grad_norm_([*base, *heads], 1.0)
            optimizer.step(), rates.step()
        seen.append(f1(side, encoder, linear, chain, examples["validation"]))
        if seen[-1] == max(seen): best = [deepcopy(module.state_dict()) for module in modules]
    for module, kept in zip(modules, best): module.load_state_dict(kept)
    return seen, f1(side, encoder, linear, chain, examples["test"])


def drawn(examples, size, seed):
    """Batches of the rows that have words, in the order of an epoch."""
    order = [row for row, found in enumerate(examples.encoded.positions) if found]
    order = np.random.default_rng(seed).permutation(order)
    return [order[start:start + size] for start in range(0, len(order), size)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--model", default="minilm")
    for name, value in (("rows", 600), ("epochs", 4), ("batch", 16), ("seeds", 2), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("rate", 2e-4), ("head-rate", 5e-3)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--out", default="tag_transitions")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from clfm_kit.data.tasks import load_tasks, read_tasks
    figures, rows, before = {}, [], os.getloadavg()[0]
    for data in arguments.data:
        parts = load_tasks(data, read_tasks({"slots": "slots"}))
        step = max(1.0, len(parts.train) / arguments.rows)
        parts.train = parts.train.take([int(n * step) for n in range(int(len(parts.train) / step))])
        name = os.path.basename(data.rstrip("/"))
        for seed in range(arguments.seeds):
            for side in SIDES:
                validation, test = train(side, parts, arguments, seed)
                rows.append(dict(data=name, side=side, seed=seed, rows=len(parts.train), validation=validation,
                                 entity_f1=test))
                print(rows[-1], file=sys.stderr, flush=True)
                found = [row["entity_f1"] for row in rows if (row["data"], row["side"]) == (name, side)]
                figures[f"{name}.{side}.entity_f1"] = float(np.mean(found))
                write(arguments.out, figures, rows, load=dict(before=before, after=os.getloadavg()[0]))


if __name__ == "__main__": main()
