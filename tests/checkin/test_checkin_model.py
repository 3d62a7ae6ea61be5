"""The default reranker: what is packaged loads, the forest is its trees, what is trained learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from personalq.checkin.rerank.embedded import COLUMNS, Fitted, against
from personalq.checkin.rerank.features import NAMES
from personalq.checkin.rerank.forest import Forest
from personalq.checkin.rerank.protocol import Calibration
from personalq.checkin.rerank.reader import FRESH, Heads, Reader, padded
from personalq.checkin.rerank.training.examples import HERE
from personalq.checkin.rerank.training.fit import SEEDS, Model, calibrate, flat, forest, linear
from personalq.errors import RerankerError


def example(right: int, present: bool, dice: np.random.Generator) -> Model:
    rows = dice.uniform(0, 0.2, (6, len(NAMES)))
    if present:
        rows[right, [NAMES.index("title"), NAMES.index("subject_anywhere"), NAMES.index("read_cover")]] = 0.9
    hits = np.asarray([float(present and at == right) for at in range(6)])
    return Model(rows, tuple(f"g{at}" for at in range(6)), hits, "single" if present else "no_match")


def test_training_learns_which_and_whether() -> None:
    dice = np.random.default_rng(0)
    tables = [example(at % 6, at % 3 > 0, dice) for at in range(90)]
    weights = linear(tables)
    fitted = Fitted(weights, forest(tables, weights), Calibration(1.0, 0.0))
    scored = [(table, fitted.log_odds(table.rows, table.groups)) for table in tables]
    for table, odds in scored:
        if table.right.any():
            assert table.right[int(np.argmax(odds))]
    some = min(odds.max() for table, odds in scored if table.right.any())
    none = max(odds.max() for table, odds in scored if not table.right.any())
    assert some > none
    calibration = calibrate(scored)
    assert none / calibration.temperature < calibration.none_logit < some / calibration.temperature


def test_a_forest_says_what_its_trees_say(tmp_path: Path) -> None:
    dice = np.random.default_rng(1)
    table = dice.normal(size=(300, 7))
    right = table[:, 0] + table[:, 3] * table[:, 5] > 0.3
    fits = [HistGradientBoostingClassifier(max_iter=20, random_state=seed).fit(table, right) for seed in range(SEEDS)]
    found = flat(fits)
    wanted = np.mean([fit.decision_function(table) for fit in fits], axis=0)
    np.testing.assert_allclose(found.score(table), wanted, atol=1e-5)
    found.save(tmp_path / "forest.safetensors")
    np.testing.assert_array_equal(Forest.read(tmp_path / "forest.safetensors", 7).score(table), found.score(table))
    with pytest.raises(RerankerError, match="other features"):
        Forest.read(tmp_path / "forest.safetensors", 3)


def test_the_packaged_weights_fit_the_features(tmp_path: Path) -> None:
    packaged = Fitted.read()
    assert packaged.weights.shape == (len(NAMES),)
    assert packaged.weights[NAMES.index("negative")] < 0 < packaged.weights[NAMES.index("version")]
    assert packaged.forest.score(np.zeros((2, COLUMNS))).shape == (2,)
    (tmp_path / "other.json").write_text('{"weights": {}}')
    with pytest.raises(RerankerError, match="training"):
        Fitted.read(weights=tmp_path / "other.json")
    with pytest.raises(RerankerError, match="missing"):
        Fitted.read(forest=tmp_path / "missing.safetensors")


def test_a_candidate_is_compared_with_other_models_only() -> None:
    rows = np.zeros((3, len(NAMES)))
    ahead = against(rows, np.asarray([3.0, 2.0, 1.0]), ("fox", "fox", "cat"))[:, -1]
    assert ahead.tolist() == [2.0, 1.0, -2.0]
    assert against(rows[:1], np.asarray([3.0]), ("fox",))[0, -1] == 3.0


def test_reading_finds_what_a_card_is_about() -> None:
    reader = Reader()
    cards = ["Ember Fox; embrfx fox; fox; animal", "Star Mug; strmg mug; mug; object", ""]
    read = reader.read("a fox in the snow", cards)
    assert read.shape == (3, 3)
    assert read[0, 0] > read[1, 0] and read[0, 2] > read[1, 2]
    assert not read[2].any()
    np.testing.assert_allclose(reader.read("a fox in the snow", cards[:1])[0], read[0], atol=0.05)


def test_cards_beyond_the_first_new_ones_wait_for_another_time() -> None:
    cards = [f"Model {at}; a thing of kind {at}" for at in range(FRESH + 3)]
    reader = Reader()
    first = reader.read("a thing of kind 3", cards)
    assert first[FRESH:].tolist() == [first[:FRESH].min(axis=0).tolist()] * 3
    again = reader.read("a thing of kind 3", cards)
    assert len({tuple(row) for row in again[FRESH:].tolist()}) == 3
    learned = Reader()
    learned.learn(cards)
    np.testing.assert_allclose(learned.read("a thing of kind 3", cards), again, atol=0.05)


def test_heads_do_not_see_the_padding() -> None:
    torch.manual_seed(0)
    heads = Heads().eval()
    request, short, long = torch.randn(4, 384), torch.randn(3, 384), torch.randn(9, 384)
    with torch.inference_mode():
        alone = heads(request, *padded([short]))[0]
        beside = heads(request, *padded([short, long]))[0]
    torch.testing.assert_close(alone, beside)


def test_the_made_requests_and_catalogue_belong_together() -> None:
    import json

    from personalq.catalog.jsonl import read_jsonl

    catalogs = [read_jsonl(path) for path in sorted(HERE.glob("catalog_*.jsonl"))]
    assert not [problem for catalog in catalogs for problem in catalog.problems]
    ids = {checkpoint.id for catalog in catalogs for checkpoint in catalog.checkpoints}
    rows = [json.loads(line) for path in sorted(HERE.glob("requests_*.jsonl")) for line in path.open(encoding="utf-8")]
    assert len(ids) > 900 and len(rows) > 1100
    assert {each for row in rows for each in row["targets"]} <= ids
    assert all(row["targets"] or row["kind"] == "no_match" for row in rows)
