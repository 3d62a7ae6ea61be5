"""HTML panels about pictures: batch strip, heat map's legend, grid, history, own concepts, votes. All escaped here.

They are shown by `gr.HTML` with its default template, which inserts the value without evaluating it.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL.Image import Image

from personalq.records import Checkpoint
from personalq.ui.controls import PRECISIONS

Tally = Mapping[str, Mapping[str, int]]
"""Votes by precision: "reference", "quantised" and "same"."""


def inline(picture: Image, side: int = 128) -> str:
    """A picture of at most `side` pixels as a `data:` address."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def strip(thumbnails: Sequence[str], selected: int) -> str:
    """The pictures of a batch, to choose which pair is shown."""
    return "".join(
        f'<button type="button" class="pq-thumb" data-index="{i}" aria-pressed="{str(i == selected).lower()}" '
        f'aria-label="Picture {i + 1} of {len(thumbnails)}"><img src="{escape(one)}" alt=""></button>'
        for i, one in enumerate(thumbnails)
    )


def legend(psnr: float, mean: float, largest: float, scale_max: float) -> str:
    """What the heat map's colours mean, and by how much the pictures differ. All but PSNR in steps of 255."""
    near = "identical" if math.isinf(psnr) else f"PSNR {psnr:.1f} dB"
    return (
        f'<p class="pq-legend"><span>0</span><i aria-hidden="true"></i><span>{scale_max:.0f} of 255 and more</span></p>'
        f'<p class="pq-how">{near} · mean difference {mean:.1f}, largest {largest:.0f} of 255</p>'
    )


def grid(pictures: Mapping[tuple[int, int], str], weights: Sequence[float], names: Sequence[str]) -> str:
    """A table of pictures: a row for each weight, a column for each precision; what is not made yet is empty."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for r, weight in enumerate(weights):
        cells = "".join(
            f'<td><img src="{escape(pictures[r, c])}" alt="{escape(name)} at weight {weight:g}"></td>'
            if (r, c) in pictures
            else '<td><span class="pq-empty"></span></td>'
            for c, name in enumerate(names)
        )
        rows.append(f'<tr><th scope="row">{weight:g}</th>{cells}</tr>')
    return (
        f'<table class="pq-grid"><thead><tr><th scope="col">Weight</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def history(entries: Sequence[Mapping[str, Any]]) -> str:
    """Favourites, then the rest, newest first. Entries are as `Kept.of` gives them: their texts are anybody's."""
    favourites = [(i, one) for i, one in enumerate(entries) if one.get("favourite")]
    others = [(i, one) for i, one in enumerate(entries) if not one.get("favourite")]
    if not entries:
        return '<p class="pq-how">Pictures you make are listed here, in this browser only.</p>'
    return _entries("Favourites", favourites) + _entries("Made before", others)


def _entries(title: str, entries: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    if not entries:
        return ""
    body = "".join(_entry(i, one) for i, one in entries)
    return f'<h2 class="pq-title">{escape(title)}</h2><ul class="pq-history">{body}</ul>'


def _entry(index: int, one: Mapping[str, Any]) -> str:
    data = one["data"]
    concepts = ", ".join(concept["name"] or concept["id"] for concept in data["concepts"]) or "no concept"
    precision = PRECISIONS.get(one["precision"], one["precision"])
    facts = f"{concepts} · seed {data['seed']} · {data['steps']} steps · {precision} · {one['when']}"
    loved = bool(one.get("favourite"))
    word = "Remove from favourites" if loved else "Add to favourites"
    thumb = one["thumb"] if str(one["thumb"]).startswith("data:image/webp;base64,") else ""
    return (
        f'<li><span class="pq-thumb"><img src="{escape(thumb)}" alt=""></span><span class="pq-text">'
        f'<strong>{escape(str(data["prompt"]))}</strong><span class="pq-facts">{escape(facts)}</span>'
        f'<span class="pq-do">{_do(index, "use", "Use again")}{_do(index, "love", word, loved)}'
        f"{_do(index, 'drop', 'Remove')}</span></span></li>"
    )


def _do(index: int, action: str, label: str, pressed: bool | None = None) -> str:
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    return f'<button type="button" data-index="{index}" data-action="{action}"{state}>{escape(label)}</button>'


def own(checkpoints: Sequence[Checkpoint]) -> str:
    """The concepts that a visitor added, each with a way to remove it."""
    if not checkpoints:
        return ""
    rows = "".join(
        f'<li><span class="pq-text"><strong>{escape(one.name or one.id)}</strong><span class="pq-facts">'
        f"<code>{escape(one.triggers[0] if one.triggers else 'no trigger')}</code> · "
        f"{escape(one.base or 'base unknown')} · {escape(one.license or 'licence unknown')}</span>"
        f'<span class="pq-do">{_do(i, "use", "Use")}{_do(i, "drop", "Remove")}</span></span></li>'
        for i, one in enumerate(checkpoints)
    )
    return f'<h2 class="pq-title">Yours, for as long as this page is open</h2><ul class="pq-history">{rows}</ul>'


def tally(votes: Tally) -> str:
    """The blind votes so far and whether they tell the sides apart: an exact two-sided sign test, ties left out."""
    rows = []
    for precision, counts in votes.items():
        reference, quantised, same = (counts.get(side, 0) for side in ("reference", "quantised", "same"))
        cells = (f"{reference}", f"{quantised}", f"{same}", _share(sign_test(reference, quantised)))
        name = escape(PRECISIONS.get(precision, precision))
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    if not rows:
        return '<p class="pq-how">No blind votes yet.</p>'
    return (
        '<h2 class="pq-title">Your blind votes</h2><table class="pq-memory"><thead><tr><th scope="col">Against</th>'
        '<th scope="col">Full precision better</th><th scope="col">Quantised better</th>'
        f'<th scope="col">No difference</th><th scope="col">p</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        '<p class="pq-how">p: how likely votes at least this uneven are if both sides look alike (sign test).</p>'
    )


def sign_test(a: int, b: int) -> float:
    """Two-sided exact binomial p-value of `a` against `b` votes, each side as likely as the other; 1 without votes."""
    n = a + b
    tail = sum(math.comb(n, k) for k in range(min(a, b) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _share(p: float) -> str:
    return f"{p:.2f}" if p >= 0.01 else "&lt; 0.01"
