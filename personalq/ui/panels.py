"""Small HTML panels: status line, candidate cards, memory table. Every value in them is escaped here.

They are shown by `gr.HTML` with its default template, which inserts the value without evaluating it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from personalq.records import Checkpoint, MemoryReading

Thumbnail = Callable[[str | None], str]
"""From the path of a preview picture to a `data:` address, or ""."""
NOT_MEASURED = "not measured"


def status(state: str, words: Sequence[str], problems: Sequence[str] = ()) -> str:
    """The header's line: a lamp (`state` is "loading", "ready" or "failed"), its words, and what was skipped."""
    line = " · ".join(escape(word) for word in words)
    skipped = ""
    if problems:
        noun = "file was skipped" if len(problems) == 1 else "files were skipped"
        rows = "".join(f"<li>{escape(problem)}</li>" for problem in problems[:20])
        skipped = f"<details><summary>{len(problems)} {noun}</summary><ul>{rows}</ul></details>"
    return f'<div class="pq-status {escape(state)}"><i aria-hidden="true"></i><span>{line}</span>{skipped}</div>'


def gallery(
    title: str,
    entries: Sequence[Mapping[str, str]],
    known: Mapping[str, Checkpoint],
    thumbnail: Thumbnail,
    picked: Sequence[str] = (),
    weak: bool = False,
    note: str = "",
) -> str:
    """Cards that can be clicked, each a button whose `data-index` is its place in `entries`; below them a note."""
    shown = [(i, entry) for i, entry in enumerate(entries) if entry["id"] in known]
    body = "".join(_card(i, known[entry["id"]], entry, thumbnail, entry["id"] in picked, weak) for i, entry in shown)
    below = f'<p class="pq-how">{escape(note)}</p>' if note else ""
    return f'<h2 class="pq-title">{escape(title)}</h2><div class="pq-cards">{body}</div>{below}' if shown else ""


def _card(index: int, one: Checkpoint, entry: Mapping[str, str], thumbnail: Thumbnail, picked: bool, weak: bool) -> str:
    picture = thumbnail(one.preview)
    name = one.name or one.id
    image = f'<img src="{picture}" alt="">' if picture else f'<b aria-hidden="true">{escape(name[:1].upper())}</b>'
    trigger = f"<code>{escape(one.triggers[0])}</code>" if one.triggers else "<em>no trigger word</em>"
    version = one.version if one.version and one.version.casefold() not in name.casefold() else None
    told = (version, one.base or "base unknown", one.license or "licence unknown")
    facts = " · ".join(escape(fact) for fact in told if fact)
    flag = (
        '<span class="pq-flag">chosen</span>' if picked else '<span class="pq-flag">weak match</span>' if weak else ""
    )
    score = f'<span class="pq-score">{escape(entry["score"])}</span>' if entry.get("score") and not weak else ""
    why = f'<span class="pq-why">{escape(entry["reason"])}</span>' if entry.get("reason") else ""
    return (
        f'<button type="button" class="pq-card" data-index="{index}" aria-pressed="{str(picked).lower()}">'
        f'<span class="pq-thumb">{image}</span><span class="pq-text"><strong>{escape(name)}</strong>{flag}{score}'
        f'<span class="pq-facts">{trigger} · {facts}</span>{why}</span></button>'
    )


def progress(words: str, step: int = 0, total: int = 0) -> str:
    """What is happening, and how far it is when there are steps."""
    count = f" · step {step} of {total}" if total else ""
    bar = f'<span class="pq-bar" style="width:{100 * step / total:.0f}%"></span>' if total else ""
    return f'<p class="pq-progress">{escape(words)}{count}</p>{bar}'  # page.js says it aloud


def memory(readings: Sequence[MemoryReading], labels: Sequence[str]) -> str:
    """What was measured for one or two pictures, as bars side by side; the saving is computed from the two readings."""
    if not readings:
        return ""
    gpu = any(reading.peak_allocated is not None for reading in readings)
    rows = [
        _row("Stored weights", [r.weights_bytes for r in readings]),
        _row("Cached keys and values", [r.kv_bytes for r in readings]),
    ]
    if gpu:
        rows += [
            _row("Peak allocated", [r.peak_allocated for r in readings]),
            _row("Peak reserved", [r.peak_reserved for r in readings]),
            _row("GPU memory in all", [r.device_total for r in readings]),
        ]
    else:
        rows.append(_cells("GPU memory", ["no GPU: not measured"] * len(readings)))
    if any(reading.process_rss is not None for reading in readings):
        rows.append(_row("Process memory, peak", [r.process_rss for r in readings]))
    rows.append(_row("Time", [r.seconds for r in readings], "{:.1f} s".format))
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels[: len(readings)])
    how = "; ".join(dict.fromkeys(f"{r.device}: {r.how_measured}" for r in readings))
    return (
        f'<h2 class="pq-title">Measured memory</h2>{_saving(readings)}<table class="pq-memory"><thead><tr>'
        f'<th scope="col"><span class="pq-hidden">What</span></th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f'</table><details class="pq-how"><summary>How it was measured</summary>{escape(how)}</details>'
    )


def _saving(readings: Sequence[MemoryReading]) -> str:
    if len(readings) < 2 or not readings[1].weights_bytes:
        return ""
    ratio = readings[0].weights_bytes / readings[1].weights_bytes
    word = "smaller" if ratio >= 1 else "larger"
    times = f"<strong>{max(ratio, 1 / ratio):.1f}×</strong>"
    return f'<p class="pq-saving">{times} {word} stored weights in the right column</p>'


def _row(name: str, values: Sequence[float | None], said: Callable[[Any], str] | None = None) -> str:
    """A quantity with a bar for each side, the longest of which is the largest value's."""
    most = max(*(value or 0 for value in values), 0) or 1
    bars = [
        "" if value is None else f'<span class="pq-bar" style="width:{100 * value / most:.0f}%"></span>'
        for value in values
    ]
    return _cells(name, [said(value) if said else _size(value) for value in values], bars)


def _cells(name: str, values: Sequence[str], bars: Sequence[str] | None = None) -> str:
    cells = "".join(
        f"<td>{escape(value)}{bar}</td>" for value, bar in zip(values, bars or [""] * len(values), strict=True)
    )
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'


def _size(count: float | None) -> str:
    if count is None:
        return NOT_MEASURED
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes"
