"""The page: its screens, its state, and what happens when it is opened and closed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from personalq.catalog.scan import Progress
from personalq.settings import Settings
from personalq.ui import api, wiring
from personalq.ui.controls import PRECISIONS, new_seed
from personalq.ui.desk import Desk
from personalq.ui.events.comparison import Comparison
from personalq.ui.events.conversation import Conversation
from personalq.ui.events.grid import Grids
from personalq.ui.events.shelves import Shelves
from personalq.ui.limits import Limits
from personalq.ui.look.theme import HEADER, theme
from personalq.ui.starters import starters
from personalq.ui.visitors import Visitors
from personalq.ui.widgets import draw, shelves

FILES = Path(__file__).parent / "look"
LOOK: dict[str, Any] = {
    "theme": theme(),
    "css": (FILES / "page.css").read_text(encoding="utf-8"),
    "js": (FILES / "page.js").read_text(encoding="utf-8"),
    "footer_links": ["api", "gradio", "settings"],
}
"""What `launch` needs beside the page: without it colours and layout are Gradio's own."""
KEY, SECRET = "personalq-1", "personalq"
"""Fixed, so that what a browser keeps outlives a restart. The browser has both: they hide nothing from its owner."""
LASTS = 3600
"""Seconds for which a session and its files outlive its page."""
SWEEP = 600
"""Seconds between two looks for copies that Gradio served longer ago than that."""


def build(settings: Settings, on_progress: Progress | None = None) -> gr.Blocks:
    """The page over the repository of `settings`; `on_progress` counts the files read. Raises CatalogError."""
    return page(Desk(settings, on_progress))


def page(desk: Desk) -> gr.Blocks:
    """The page over a desk."""
    limits, visitors = Limits(), Visitors()
    conversation = Conversation(desk, limits)
    comparison = Comparison(desk, limits, visitors)
    grids = Grids(comparison)
    mine = Shelves(desk, limits, visitors, conversation, (comparison.runs, grids.runs))
    bases = sorted({name for name in (desk.base_name, *(one.base for one in desk.catalog.checkpoints)) if name})
    with gr.Blocks(title="PersonalQ", analytics_enabled=False, delete_cache=(SWEEP, LASTS)) as blocks:
        parts: dict[str, Any] = {
            "sess": gr.State({}, time_to_live=LASTS, delete_callback=mine.leave),
            "made": gr.State({}, time_to_live=LASTS),
            "failed": gr.State({}, time_to_live=LASTS),
            "kept": gr.BrowserState({}, storage_key=KEY, secret=SECRET),
            "again": gr.State(0),
        }
        with gr.Row(elem_id="header"):
            gr.HTML(HEADER, elem_id="brand")
            parts["status"] = gr.HTML(elem_id="status")
        with gr.Tabs(selected="draw", overflow_behavior="wrap", elem_id="tabs") as parts["tabs"]:
            with gr.Tab("Draw", id="draw"):
                draw.draw(parts, starters(desk.catalog.checkpoints), conversation.shelf(), PRECISIONS)
            with gr.Tab("History", id="history", render_children=True):
                shelves.history(parts)
            with gr.Tab("My concepts", id="concepts", render_children=True):
                shelves.concepts(parts, bases)
            with gr.Tab("Settings", id="settings", render_children=True):
                shelves.settings(parts)
        wiring.talk(parts, conversation)
        runs = [wiring.drawing(parts, comparison), wiring.grids(parts, grids)]
        wiring.shelves(parts, mine)
        wiring.clearing(parts, conversation, comparison, grids, mine, runs)
        opened = wiring.of(parts, "sess", "history", "tally", "protect", "blind", "previews", "theme", "precision")
        blocks.load(mine.on_load, parts["kept"], opened, **wiring.QUIET, concurrency_limit=None)
        blocks.load(conversation.on_load, None, parts["status"], **wiring.QUIET, concurrency_limit=None)
        blocks.load(new_seed, None, parts["seed"], **wiring.QUIET, concurrency_limit=None)
        api.endpoints(desk, limits)
    return blocks
