"""Tags by independent words against a learned transition score (a linear-chain CRF), everything else equal.

    python benchmarks/tag_transitions.py --data helpdesk --data FOLDER [--rows 600] [--epochs 4] [--seeds 2]

Rows carry `slots` with `tokens`. Both sides move all weights of the base, with the same start, batches, rates and epochs; the epoch is chosen by entity F1 on the validation rows. `independent` is what head `tags` does: log-loss over
words, then the likeliest sequence that BIO allows. `crf` adds a score for each pair of neighbouring tags, a start and an end to the loss, and decodes with them under the same BIO rules. Training rows are cut to `--rows`, taken evenly.
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
        self.step, self.first, self.last = nn.Parameter(torch.zeros(tags, tags)), nn.Parameter(torch.zeros(tags)), nn.Parameter(torch.zeros(tags))

    def loss(self, scores, targets, lengths):
        """Minus log-probability of whole sequences, by word, of scores [B, T, C] and targets [B, T] of texts with `lengths` [B] words."""
        rows, inside = torch.arange(len(scores)), torch.arange(scores.shape[1]) < lengths.unsqueeze(1)
        own = (scores.gather(2, targets.unsqueeze(2)).squeeze(2) * inside).sum(1) + self.first[targets[:, 0]] + self.last[targets[rows, lengths - 1]]
        path = own + (self.step[targets[:, :-1], targets[:, 1:]] * inside[:, 1:]).sum(1)
        total = self.first + scores[:, 0]
        for place in range(1, scores.shape[1]):
            further = (total.unsqueeze(2) + self.step).logsumexp(1) + scores[:, place]
            total = torch.where(inside[:, place].unsqueeze(1), further, total)
        return ((total + self.last).logsumexp(1) - path).sum() / lengths.sum()

    def decode(self, scores, allowed):
        """The likeliest allowed tags of one text: scores [T, C], `allowed` as from `clfm_kit.data.words._allowed`."""
        step = self.step.detach().numpy() + allowed[:-1]
        best, back = scores[0] + self.first.detach().numpy() + allowed[-1], []
        for row in scores[1:]:
            paths = best[:, None] + step
            back.append(paths.argmax(0))
            best = paths.max(0) + row
        path = [int((best + self.last.detach().numpy()).argmax())]
        for places in reversed(back): path.append(int(places[path[-1]]))
        return path[::-1]


def states_of(reader, batch):
    found = reader.read(*(batch[name] for name in ("ids", "mask", "owner", "words")))
    return next(iter(found.values()))


def by_text(values, positions): return values.split([len(found) for found in positions])


def f1(side, reader, map, chain, examples, rows, schema):
    """Entity F1 of one side on rows."""
    from clfm_kit.evaluation.metrics import evaluate_tags
    from clfm_kit.backbone.batching import batches
    from clfm_kit.data.words import _allowed, decode_tags, repair
    reader.backbone.model.eval(), map.eval()
    allowed, tags = _allowed(schema), [None] * len(examples)
    for numbers in batches(examples.lengths, examples.counts, 4096):
        with torch.no_grad(): scores = map(states_of(reader, examples.batch(numbers)))
        for row, found in zip(numbers, by_text(scores, [examples.positions[n] for n in numbers])):
            if not len(found): tags[row] = []
            elif side == "crf": tags[row] = [schema.labels[t] for t in chain.decode(found.numpy().astype(float), allowed)]
            else: tags[row] = decode_tags(found.softmax(-1).numpy().astype(float), schema)[0]
    gold = [repair(found)[0] for found in rows.labels["slots"]]
    return evaluate_tags(tags, gold)["entity_f1"]


def train(side, parts, arguments, seed):
    """Entity F1 on validation rows after each epoch and on test rows at the best."""
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit.training.joint import TaskExamples, TaskReader
    from clfm_kit.parts import make
    from clfm_kit.data.tasks import learn_schema, read_tasks
    torch.manual_seed(seed)
    task, = read_tasks({"slots": "slots"}).values()
    schema, backbone = learn_schema(task, parts["train"]), Backbone.load(arguments.model)
    reader = TaskReader(backbone, make("pooler", "mean"), [f"hidden.{backbone.shape.depth}/words"])
    examples = {part: TaskExamples(backbone, make("format", "plain"), rows, {"slots": schema}) for part, rows in parts.items()}
    map, chain, drop = nn.Linear(backbone.shape.hidden, len(schema)), Chain(len(schema)), nn.Dropout(0.1)
    heads = [*map.parameters(), *(chain.parameters() if side == "crf" else ())]
    optimizer = torch.optim.AdamW([dict(params=list(backbone.model.parameters()), lr=arguments.rate), dict(params=heads, lr=arguments.head_rate)], weight_decay=0.01, fused=True)
    steps = arguments.epochs * -(-len(parts["train"]) // arguments.batch)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / max(1, round(0.06 * steps)), (steps - n) / steps))
    best, seen = None, []
    for epoch in range(arguments.epochs):
        backbone.model.train(), map.train()
        order = np.random.default_rng(seed + epoch).permutation([row for row, found in enumerate(examples["train"].positions) if found])
        for start in range(0, len(order), arguments.batch):
            rows = order[start:start + arguments.batch]
            scores = map(drop(states_of(reader, examples["train"].batch(rows))))
            targets = torch.from_numpy(np.concatenate([examples["train"].answers["slots"][row] for row in rows])).clamp(min=0)  # words that are cut off are read as O
            if side == "crf":
                pad = lambda values: nn.utils.rnn.pad_sequence(by_text(values, [examples["train"].positions[row] for row in rows]), batch_first=True)
                loss = chain.loss(pad(scores), pad(targets), torch.tensor([len(examples["train"].positions[row]) for row in rows]))
            else: loss = nn.functional.cross_entropy(scores, targets)
            optimizer.zero_grad(), loss.backward()
            torch.nn.utils.clip_grad_norm_([*backbone.model.parameters(), *heads], 1.0)
            optimizer.step(), rates.step()
        seen.append(f1(side, reader, map, chain, examples["validation"], parts["validation"], schema))
        if seen[-1] == max(seen): best = [deepcopy(module.state_dict()) for module in (backbone.model, map, chain)]
    for module, kept in zip((backbone.model, map, chain), best): module.load_state_dict(kept)
    return seen, f1(side, reader, map, chain, examples["test"], parts["test"], schema)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--model", default="minilm")
    for name, value in (("rows", 600), ("epochs", 4), ("batch", 16), ("seeds", 2), ("threads", 1)): parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("rate", 2e-4), ("head-rate", 5e-3)): parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--out", default="tag_transitions")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from clfm_kit.data.tasks import load_tasks, read_tasks
    figures, rows, before = {}, [], os.getloadavg()[0]
    for data in arguments.data:
        parts = load_tasks(data, read_tasks({"slots": "slots"}))
        step = max(1.0, len(parts["train"]) / arguments.rows)
        parts["train"] = parts["train"].take([int(n * step) for n in range(int(len(parts["train"]) / step))])
        name = os.path.basename(data.rstrip("/"))
        for seed in range(arguments.seeds):
            for side in SIDES:
                validation, test = train(side, parts, arguments, seed)
                rows.append(dict(data=name, side=side, seed=seed, rows=len(parts["train"]), validation=validation, entity_f1=test))
                print(rows[-1], file=sys.stderr, flush=True)
                figures[f"{name}.{side}.entity_f1"] = float(np.mean([row["entity_f1"] for row in rows if (row["data"], row["side"]) == (name, side)]))
                write(arguments.out, figures, rows, load=dict(before=before, after=os.getloadavg()[0]))


if __name__ == "__main__": main()
