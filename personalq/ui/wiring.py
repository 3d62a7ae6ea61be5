"""Which event of the page goes to which handler, and which widgets take what it gives. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from personalq.ui.controls import Controls, new_seed
from personalq.ui.events.comparison import Comparison, Pictures
from personalq.ui.events.conversation import KEEP, Conversation, Turn, filled
from personalq.ui.events.grid import Grid, Grids
from personalq.ui.events.shelves import FORM, Emptied, Restored, Shelves
from personalq.ui.present import Session

Parts = Mapping[str, Any]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
TALK: dict[str, Any] = {**QUIET, "concurrency_id": "cpu", "concurrency_limit": 8}
DRAW: dict[str, Any] = {
    "concurrency_id": "gpu",
    "concurrency_limit": 1,
    "trigger_mode": "once",
    "show_progress": "minimal",
    "api_visibility": "private",
}
SHOW_PICTURES = """
() => { setTimeout(() => document.getElementById('outputs')?.scrollIntoView({block: 'nearest'}), 500); }
"""
"""On a phone the pictures stand above the button."""
WAIT = """
() => [{__type__: 'update', visible: true}, '<p class="pq-progress">Waiting for its turn</p>',
  {__type__: 'update', visible: true}]
"""
"""Until the job begins: shows where Gradio tells the place in the queue, and a way out of it."""
NOT_BEGUN = """
() => document.querySelector('#progress .pq-progress')?.textContent === 'Waiting for its turn'
  ? ['<p class="pq-progress">Too many pictures are waiting: try again in a minute</p>',
     {__type__: 'update', visible: false}]
  : [{__type__: 'update'}, {__type__: 'update'}]
"""
"""What fails later says so itself."""
SHOW_VIEW = "(view) => { document.getElementById('pictures').dataset.view = view; }"
SHOW_THEME = """
(theme) => {
  const dark = theme === 'Dark' || (theme === 'System' && matchMedia('(prefers-color-scheme: dark)').matches);
  document.body.classList.toggle('dark', dark);
}
"""


def of(parts: Parts, *names: str) -> list[Any]:
    """Widgets by name."""
    return [parts[name] for name in names]


def talk(parts: Parts, page: Conversation) -> None:
    """The conversation and the prompt."""
    outputs, context = of(parts, *Turn._fields), of(parts, "chat", "sess")
    answer = [*context, parts["size"]]
    parts["box"].submit(page.turn, [parts["box"], *answer], outputs, trigger_mode="once", validator=filled, **TALK)
    for button in parts["starters"]:
        button.click(page.turn, [button, *answer], outputs, trigger_mode="once", **TALK)
    parts["chat"].option_select(page.on_option, answer, outputs, trigger_mode="once", **TALK)
    parts["cands"].select(page.on_card, context, outputs, trigger_mode="once", **TALK)
    parts["shelf"].select(page.on_shelf, context, outputs, trigger_mode="once", **TALK)
    edited = of(parts, "prompt", "warning")
    parts["prompt_box"].change(  # `input` misses Backspace, cut and paste
        page.on_edit, of(parts, "prompt_box", "sess"), edited, trigger_mode="always_last", **TALK
    )
    parts["reset"].click(page.on_reset, parts["sess"], [parts["prompt_box"], *edited], **TALK)


def drawing(parts: Parts, page: Comparison) -> Any:
    """Generate, stop, look, vote. Returns the run."""
    outputs = of(parts, *Pictures._fields)
    begins = [parts["go"].click, parts["again"].change]
    gr.on(begins, None, None, of(parts, "outputs", "progress", "stop"), js=WAIT, **QUIET)
    parts["go"].click(None, js=SHOW_PICTURES, api_visibility="private")  # a listener waits for those before it
    run = gr.on(
        begins,
        page.on_compare,
        of(parts, "sess", *Controls._fields),
        outputs,
        show_progress_on=parts["progress"],
        **DRAW,
    )
    run.failure(None, None, of(parts, "progress", "stop"), js=NOT_BEGUN, **QUIET)
    parts["stop"].click(None, cancels=[run], queue=False, **QUIET)  # first: listeners are sent one after the other
    parts["stop"].click(page.on_stop, None, of(parts, "progress", "go", "stop"), concurrency_id="cpu", **QUIET)
    parts["dice"].click(new_seed, None, parts["seed"], queue=False, **QUIET)
    parts["view"].change(None, parts["view"], js=SHOW_VIEW, api_visibility="private")
    parts["failed"].change(page.on_failed, of(parts, "failed", "chat"), parts["chat"], **TALK)
    parts["made"].change(page.on_made, of(parts, "made", "sess", "kept"), of(parts, "sess", "kept"), **TALK)
    parts["strip"].select(page.on_strip, parts["made"], outputs, **TALK)
    votes: dict[str, int | None] = {"vote_a": 0, "vote_same": None, "vote_b": 1}
    for name, chosen in votes.items():
        parts[name].click(_voting(page, chosen), of(parts, "made", "kept"), outputs, **TALK)
    return run


def _voting(page: Comparison, chosen: int | None) -> Callable[[dict[str, Any], Any], Pictures]:
    return lambda made, kept: page.on_vote(made, kept, chosen)


def grids(parts: Parts, page: Grids) -> Any:
    """Concept weight against precision. Returns the run."""
    run = parts["grid_go"].click(
        page.on_grid,
        of(parts, "sess", "grid_weights", "grid_precisions", *Controls._fields),
        of(parts, *Grid._fields),
        show_progress_on=parts["grid_out"],
        **DRAW,
    )
    parts["grid_stop"].click(None, cancels=[run], queue=False, **QUIET)
    parts["grid_stop"].click(page.on_stop, None, of(parts, *Grid._fields), concurrency_id="cpu", **QUIET)
    return run


def shelves(parts: Parts, page: Shelves) -> None:
    """History, own concepts, settings."""
    context, restored = of(parts, "chat", "sess"), of(parts, *Restored._fields)
    parts["history"].select(page.on_history, [*context, parts["kept"]], restored, **TALK)
    parts["dropped"].upload(page.on_drop, [*context, parts["dropped"]], restored, **TALK)
    parts["dropped"].upload(lambda: None, None, parts["dropped"], queue=False, **QUIET)  # there is room for the next
    form, listed = of(parts, *FORM), of(parts, "own_list", "shelf", "sess")
    adding = parts["own_add"].click(
        page.on_add, [parts["sess"], *form], [parts["own_said"], *listed], trigger_mode="once", **TALK
    )
    adding.success(page.on_added, None, form, queue=False, **QUIET)  # with outputs of its own: a refusal marks them all
    parts["own_list"].select(page.on_own, parts["sess"], [*listed, *of(parts, "studio", "cands")], **TALK)
    parts["own_list"].select(page.on_use, context, of(parts, *Turn._fields), **TALK)
    settings = of(parts, "protect", "blind", "previews", "theme", "precision")
    for widget in settings:
        widget.input(page.on_setting, [parts["kept"], *settings], parts["kept"], **TALK)
    parts["theme"].change(None, parts["theme"], js=SHOW_THEME, api_visibility="private")
    parts["kept"].change(page.on_kept, parts["kept"], of(parts, "history", "tally"), **TALK)


def clearing(
    parts: Parts, talk: Conversation, pictures: Comparison, grid: Grids, mine: Shelves, runs: Sequence[Any]
) -> None:
    """The bin above the conversation, and Clear my data: what is being made is stopped too.

    All in one event each. Several would come one after the other, the last perhaps after what the visitor did next.
    """

    def on_bin(sess: Session) -> dict[Any, Any]:
        return named(talk.on_clear(sess), pictures.on_away(), grid.on_away())

    def on_clear(sess: Session, browser: gr.Request) -> dict[Any, Any]:
        return named(mine.on_clear(sess, browser), pictures.on_away(), grid.on_away())

    def named(*given: Turn | Emptied | Pictures | Grid) -> dict[Any, Any]:
        return {parts[name]: value for one in given for name, value in one._asdict().items() if value is not KEEP}

    for event, handler, fields in (
        (parts["chat"].clear, on_bin, Turn._fields),
        (parts["clear"].click, on_clear, Emptied._fields),
    ):
        outputs = dict.fromkeys((*fields, *Pictures._fields, *Grid._fields))
        event(None, cancels=runs, queue=False, **QUIET)
        event(handler, parts["sess"], of(parts, *outputs), **TALK)
