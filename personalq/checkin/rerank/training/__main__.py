"""Train the default reranker: `python -m personalq.checkin.rerank.training [--judge CATALOG REQUESTS] [--write]`.

Everything is fitted to the requests in this folder but the calibration, two numbers, which is fitted to those of
`--judge` where they are given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from personalq.checkin.rerank.embedded import FOREST, WEIGHTS, Fitted
from personalq.checkin.rerank.features import NAMES
from personalq.checkin.rerank.protocol import Calibration
from personalq.checkin.rerank.reader import WEIGHTS as READER
from personalq.checkin.rerank.training.examples import Array, made, over
from personalq.checkin.rerank.training.fit import Model, calibrate, forest, linear
from personalq.checkin.rerank.training.heads import FOLDS, Encoded, read, read_unseen, train

Scored = list[tuple[Model, Array]]
SHARPEN = 0.7
"""Of the temperature that log-loss finds: it hedges for the requests no feature can tell, at the cost of a question for
each of the others. Chosen with the thresholds of `decide` on requests that were not trained on."""


def main() -> None:
    """Fit, show how well, and with `--write` store the weights beside the reranker."""
    parser = argparse.ArgumentParser(description="Train the default reranker.")
    parser.add_argument("--judge", nargs=2, type=Path, metavar=("CATALOG", "REQUESTS"))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()

    examples = made()
    encoded = Encoded(examples)
    read_unseen(encoded, examples)
    tables = [Model.of(example) for example in examples]
    heads = train(encoded, examples)
    weights = linear(tables)
    fitted = Fitted(weights, forest(tables, weights), Calibration(1.0, 0.0))

    held_out = _held_out(tables)
    told = {"made requests, 4-fold": _summary(held_out)}
    calibration = calibrate(held_out)
    if chosen.judge:
        judged = over([chosen.judge[0]], [chosen.judge[1]], chosen.cache)
        others = Encoded(judged)
        for example in judged:
            example.read = read(others, heads, example)
        scored = _scored(fitted, [Model.of(example) for example in judged])
        told["other requests, unseen"] = _summary(scored)
        calibration = calibrate(scored)
    record = {
        "how": f"python -m personalq.checkin.rerank.training, {len(examples)} made requests",
        "right first, and AUROC of the best log-odds against no match": told,
        "temperature": round(calibration.temperature * SHARPEN, 4),
        "none_logit": round(calibration.none_logit, 4),
        "weights": {name: round(float(weight), 4) for name, weight in zip(NAMES, weights, strict=True)},
    }
    print(json.dumps(record, indent=1))
    if chosen.write:
        WEIGHTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        fitted.forest.save(FOREST)
        save_file({name: tensor.contiguous() for name, tensor in heads.state_dict().items()}, READER)


def _held_out(tables: Sequence[Model]) -> Scored:
    found: Scored = []
    for fold in range(FOLDS):
        rest = [table for at, table in enumerate(tables) if at % FOLDS != fold]
        weights = linear(rest)
        found += _scored(Fitted(weights, forest(rest, weights), Calibration(1.0, 0.0)), tables[fold::FOLDS])
    return found


def _scored(fitted: Fitted, tables: Sequence[Model]) -> Scored:
    return [(table, fitted.log_odds(table.rows, table.groups)) for table in tables]


def _summary(scored: Scored) -> dict[str, float]:
    """By kind the share of requests whose best row is right, and AUROC of the best log-odds of any against none."""
    told = {}
    for kind in ("single", "ambiguous"):
        hits = [table.right[int(np.argmax(odds))] for table, odds in scored if table.kind == kind]
        told[kind] = round(float(np.mean(hits)), 4)
    some = np.asarray([odds.max() for table, odds in scored if table.kind != "no_match"])
    none = np.asarray([odds.max() for table, odds in scored if table.kind == "no_match"])
    told["auroc"] = round(float((some[:, None] > none).mean()), 4)
    return told


if __name__ == "__main__":
    main()
