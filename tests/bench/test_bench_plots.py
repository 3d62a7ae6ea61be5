"""Plots are small PNG files that show every row once, with names that are in nobody's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from personalq.bench.plots import ALIKE, _named, _points, identity_against_bytes, sensitivity_map, spread_out
from personalq.errors import BenchError

LEVELS = ("w8a8", "w4a8", "w4a4")


def row(name: str, level: str, megabytes: float, mean: float) -> dict[str, Any]:
    spread = {"mean": mean, "low": mean - 0.08, "high": mean + 0.05}
    return {"name": name, "level": level, "stored_bytes": megabytes * 1e6, "identity": spread, "psnr": spread}


def table(methods: int) -> dict[str, Any]:
    """The reference and as many methods at every level, all of one level at the same bytes."""
    rows = [row("reference", "w16a16", 21.7, 0.85) | {"psnr": None}]
    for number in range(methods):
        for place, level in enumerate(LEVELS):
            rows.append(row(f"method{number}-{level}", level, 12 - 3 * place, 0.8 - 0.1 * place - 0.013 * number))
    return {"rows": rows, "n": 224, "concepts": 14}


def test_the_plot_is_a_small_png(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "identity.png"
    identity_against_bytes(table(4), path)
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 900
        assert len(picture.convert("RGB").getcolors(10_000) or []) > 10


def test_names_overlap_neither_each_other_nor_a_point() -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation, Text

    held = {each["name"]: each for each in table(5)["rows"]}
    names = [name for name in held if name != "reference"]
    places = spread_out({name: held[name]["stored_bytes"] / 1e6 for name in names})
    figure = Figure((9.5, 4), dpi=110)
    axes = figure.add_subplot()
    points = _points(axes, held, places, "identity")
    figure.draw_without_rendering()
    _named(axes, points)
    figure.draw_without_rendering()
    texts = [each for each in axes.texts if isinstance(each, Annotation) and each.get_text() in held]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    boxes = [Text.get_window_extent(text) for text in texts]
    assert not [1 for i, box in enumerate(boxes) for other in boxes[:i] if box.overlaps(other)]
    inside = axes.get_window_extent()
    assert all(inside.contains(*corner) for box in boxes for corner in box.corners())
    centres = [axes.transData.transform((x, y)) for x, y, *_ in points.values()]
    assert not [1 for box in boxes for centre in centres if box.contains(*centre)]


def test_a_name_without_room_is_refused(tmp_path: Path) -> None:
    crowd = table(1) | {"rows": [row("very long " * 20, "w4a8", 6.0, 0.7)]}
    with pytest.raises(BenchError, match="fewer rows"):
        identity_against_bytes(crowd, tmp_path / "crowd.png", measures=("identity",))


def test_rows_are_chosen_by_name(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="method9-w8a8"):
        identity_against_bytes(table(2), tmp_path / "a.png", rows=["method1-w8a8", "method9-w8a8"])


def test_rows_of_equal_bytes_stand_beside_each_other() -> None:
    places = spread_out({"a": 6.0, "b": 6.0 * (ALIKE - 0.01), "alone": 9.0, "c": 6.0})
    assert places["alone"] == 9.0
    assert places["a"] < places["b"] < places["c"] < 7
    assert places["b"] - places["a"] == pytest.approx(places["c"] - places["b"])
    assert (places["a"] + places["c"]) / 2 == pytest.approx(6.06)
    assert spread_out({}) == {}


def test_the_map_shows_what_there_is(tmp_path: Path) -> None:
    cell = [0.2, 0.02, 0.002]
    panel = [[cell, None], [None, None], [cell, cell]]
    result = {
        "maps": {name: {"prediction": panel, "concept": panel} for name in ("weights", "activations")},
        "kinds": ["text K", "probabilities", "convolution"],
        "blocks": ["down 0", "mid"],
        "thirds": ["early", "middle", "late"],
    }
    sensitivity_map(result, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size < 150_000
