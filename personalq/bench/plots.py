"""Draws what the quantisation and sensitivity benchmarks found, as PNG files. It measures nothing and ranks nothing.

Colours are those of Okabe and Ito and of "cividis", which people who are blind to some colours can tell apart; every
method has its own marker besides, and its name stands beside it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from personalq.errors import BenchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

FAR = 16
"""Points of type beyond which a thin line joins a name to its point."""

_STEPS = [(side * dx, dy) for dx in range(8, 200, 8) for dy in range(-160, 161, 8) for side in (1, -1)]
OFFSETS = np.array(sorted(_STEPS, key=lambda step: abs(step[0]) + 1.5 * abs(step[1])), dtype=np.float64)
"""Where names are tried, in points of type from what they name, nearest first."""

Points: TypeAlias = dict[str, tuple[float, float, tuple[float, float], str]]
"""Where each row is, the ends of its interval, and its colour."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>hpd8H"
NAMES = {
    "psnr": "PSNR against the reference's picture, dB",
    "identity": "pictures whose concept the probe names",
    "probability": "probability the probe gives the concept",
    "scene": "pictures whose scene the probe names",
}
ALIKE = 1.04
"""Rows whose bytes are within this factor are drawn side by side."""

COLOURS_KEPT = 96
"""Of a finished picture, so that its file stays small."""

APART = 0.022
"""How far apart, as a share of the axis."""


def identity_against_bytes(
    result: Mapping[str, Any],
    path: Path,
    rows: Sequence[str] | None = None,
    measures: Sequence[str] = ("identity", "psnr"),
) -> None:
    """A panel for each measure over stored megabytes, with 95 % intervals; `rows` chooses and orders the rows drawn.

    The reference is drawn as a band. Rows of about the same bytes are moved apart sideways. Raises BenchError for
    rows that the result does not have, and without matplotlib.
    """
    held = {row["name"]: row for row in result["rows"]}
    names = [name for name in rows or held if name != "reference"]
    if missing := [name for name in names if name not in held]:
        raise BenchError(f"The result has no rows called {', '.join(missing)}.")
    figure = _figure(9.5, 4.1 * len(measures))
    places = spread_out({name: held[name]["stored_bytes"] / 1e6 for name in names})
    drawn = []
    for number, measure in enumerate(measures):
        axes = figure.add_subplot(len(measures), 1, number + 1)
        drawn.append((axes, _points(axes, held, {name: places[name] for name in names}, measure)))
        axes.set_ylabel(NAMES.get(measure, measure))
        axes.set_xlabel("stored megabytes of the denoiser" if number == len(measures) - 1 else "")
    figure.suptitle(
        f"{result['n']} pictures a row, {result['concepts']} concepts, the same noise; bars: 95 % over concepts",
        fontsize=9,
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are put where there is room, so nothing may move any more
    for axes, points in drawn:
        _named(axes, points)
    _save(figure, path)


def spread_out(megabytes: Mapping[str, float]) -> dict[str, float]:
    """Where each row is drawn: at its bytes, or beside others of about as many, the group centred on its mean."""
    order = sorted(megabytes, key=lambda name: megabytes[name])
    if not order:
        return {}
    span = (megabytes[order[-1]] - megabytes[order[0]]) or megabytes[order[0]]
    groups: list[list[str]] = []
    for name in order:
        if groups and megabytes[name] <= megabytes[groups[-1][0]] * ALIKE:
            groups[-1].append(name)
        else:
            groups.append([name])
    places = {}
    for group in groups:
        middle = sum(megabytes[name] for name in group) / len(group)
        kept = [name for name in megabytes if name in group]  # in the order they were given in
        for number, name in enumerate(kept):
            places[name] = middle + (number - (len(kept) - 1) / 2) * APART * span
    return places


def sensitivity_map(result: Mapping[str, Any], path: Path) -> None:
    """Kinds of places against blocks and thirds: weights and activations, prediction and what the trigger adds."""
    from matplotlib.colors import LogNorm

    figure = _figure(13, 8.4)
    parts = {"prediction": "of the guided prediction", "concept": "of what the trigger adds"}
    cells = [
        value
        for panel in result["maps"].values()
        for part in panel.values()
        for row in part
        for cell in row
        for value in cell or ()
    ]
    norm = LogNorm(max(min(cells), max(cells) / 1000), max(cells))
    image = None
    for number, (rounded, part) in enumerate((r, p) for r in result["maps"] for p in parts):
        axes = figure.add_subplot(len(result["maps"]), len(parts), number + 1)
        grid, kinds = _grid(result, result["maps"][rounded][part])
        image = axes.imshow(grid, norm=norm, cmap="cividis", aspect="auto")
        _cells(axes, grid, norm)
        _frame(axes, result, kinds)
        axes.set_title(f"four-bit {rounded}: relative error {parts[part]}", fontsize=9)
    if image is not None:
        thirds = ", ".join(f"{name[0].upper()}: {name}" for name in result["thirds"])
        figure.supxlabel(f"thirds of the steps, {thirds}; numbers in per cent", fontsize=8)
        figure.colorbar(image, ax=figure.axes, shrink=0.6, pad=0.01, label="relative error")
    _save(figure, path)


def _grid(
    result: Mapping[str, Any], rows: Sequence[Sequence[Sequence[float] | None]]
) -> tuple[list[list[float]], list[str]]:
    """The kinds that have a number, and theirs in one line: block after block, third after third; NaN where none is."""
    empty = [float("nan")] * len(result["thirds"])
    held = [(kind, row) for kind, row in zip(result["kinds"], rows, strict=True) if any(row)]
    return [[value for cell in row for value in (cell or empty)] for _, row in held], [kind for kind, _ in held]


def _frame(axes: Axes, result: Mapping[str, Any], kinds: Sequence[str]) -> None:
    thirds, blocks = len(result["thirds"]), result["blocks"]
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axes.set_xticks([thirds * number + (thirds - 1) / 2 for number in range(len(blocks))], blocks, fontsize=8)
    for number, third in enumerate([name[0].upper() for name in result["thirds"]] * len(blocks)):
        below = axes.get_xaxis_transform()
        axes.text(number, -0.01, third, transform=below, ha="center", va="top", fontsize=6)
    axes.tick_params(axis="x", pad=9)
    for number in range(1, len(blocks)):
        axes.axvline(thirds * number - 0.5, color="white", linewidth=1.5)
    axes.tick_params(length=0)
    axes.set_facecolor("#e8e8e8")


def _cells(axes: Axes, grid: Sequence[Sequence[float]], norm: Any) -> None:
    """Each cell's error in per cent, where there is one."""
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            if value == value:
                shade = "black" if norm(value) > 0.6 else "white"
                told = f"{100 * value:.0f}" if value >= 0.095 else f"{100 * value:.1f}"
                axes.text(x, y, told, ha="center", va="center", fontsize=5.5, color=shade)


# --- points with names beside them -------------------------------------------------------------


def _points(axes: Axes, rows: Mapping[str, Any], places: Mapping[str, float], measure: str) -> Points:
    """The rows' means and intervals, and the reference's as a band; returns where each row is."""
    methods = list(dict.fromkeys(method(rows[name]) for name in places))
    points: Points = {}
    for name, x in places.items():
        spread, which = rows[name][measure], methods.index(method(rows[name]))
        colour, marker = COLOURS[which % len(COLOURS)], MARKERS[which % len(MARKERS)]
        bars = [[spread["mean"] - spread["low"]], [spread["high"] - spread["mean"]]]
        axes.errorbar(x, spread["mean"], bars, color=colour, elinewidth=0.8, capsize=0, alpha=0.7)
        axes.plot(x, spread["mean"], marker, color=colour, markersize=6, markeredgecolor="white")
        points[name] = (x, spread["mean"], (spread["low"], spread["high"]), colour)
    whole = rows.get("reference", {}).get(measure)
    if whole:
        axes.axhspan(whole["low"], whole["high"], color="#999999", alpha=0.15, linewidth=0)
        axes.axhline(whole["mean"], color="#666666", linewidth=0.8, linestyle="--")
        megabytes = rows["reference"]["stored_bytes"] / 1e6
        axes.annotate(
            f"reference, {megabytes:.1f} MB",
            (1, whole["mean"]),
            (-4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#444444",
        )
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12, y=0.12)
    return points


def method(row: Mapping[str, Any]) -> str:
    """A row's name without its level: what it does, whatever the bits."""
    name, level = str(row["name"]), str(row["level"])
    return name.replace(f"-{level}", "", 1)


def _named(axes: Axes, points: Points) -> None:
    """Each point's name as near to it as no name or point is in the way, and no interval where that can be had.

    Boxes are in pixels, [n, 4]: left, bottom, right, top. Nothing that was laid out may move afterwards.
    """
    scale, inside = axes.figure.dpi / 72, np.array(axes.get_window_extent().extents)
    at = {name: axes.transData.transform((x, y)) for name, (x, y, *_) in points.items()}
    taken = np.array([[x - 7, y - 7, x + 7, y + 7] for x, y in at.values()])
    ends = [axes.transData.transform([(x, low), (x, high)]) for x, _, (low, high), _ in points.values()]
    bars = np.array([[low[0] - 2, low[1], high[0] + 2, high[1]] for low, high in ends])
    for name, (x, y, _, colour) in sorted(points.items(), key=lambda item: -item[1][1]):
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", va="center", fontsize=7.5, color=colour)
        boxes = _candidates(at[name], text.get_window_extent(), scale)
        held = (boxes[:, :2] >= inside[:2]).all(1) & (boxes[:, 2:] <= inside[2:]).all(1)
        free = held & ~_overlap(boxes, taken)
        best = np.flatnonzero(free & ~_overlap(boxes, bars))
        best = best if len(best) else np.flatnonzero(free)
        if not len(best):
            raise BenchError(f"There is no room for the name {name}: draw fewer rows.")
        taken = np.concatenate([taken, boxes[best[:1]]])
        dx, dy = OFFSETS[best[0]]
        text.set(position=(dx, dy), horizontalalignment="left" if dx > 0 else "right")
        if abs(dx) + abs(dy) > FAR:
            end = axes.transData.inverted().transform(at[name] + scale * np.array([dx - np.sign(dx) * 2, dy]))
            axes.plot([x, end[0]], [y, end[1]], color=colour, linewidth=0.4, scalex=False, scaley=False)


def _candidates(at: Any, size: Bbox, scale: float) -> NDArray[np.float64]:
    """Where a name of this size would stand for every one of `OFFSETS`."""
    left = at[0] + scale * OFFSETS[:, 0] - np.where(OFFSETS[:, 0] > 0, 0, size.width)
    bottom = at[1] + scale * OFFSETS[:, 1] - size.height / 2
    return np.stack([left - 1, bottom - 1, left + size.width + 1, bottom + size.height + 1], 1)


def _overlap(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes [n, 4] overlap any of the others [m, 4]."""
    a, b = boxes[:, None], others[None]
    return np.asarray(((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(-1).any(-1))


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BenchError("Plots need matplotlib: pip install matplotlib.") from error
    return Figure((width, height), dpi=110, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer)
    with Image.open(buffer) as drawn:
        drawn.convert("RGB").quantize(COLOURS_KEPT, dither=Image.Dither.NONE).save(path, optimize=True)
