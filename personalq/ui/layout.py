"""The page: which widgets there are and which event goes where. It decides nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from personalq.catalog.scan import Progress
from personalq.settings import Settings
from personalq.ui.comparison import PRECISIONS, Comparison, Pictures, new_seed
from personalq.ui.desk import Desk
from personalq.ui.handlers import Handlers, Turn, filled
from personalq.ui.starters import starters
from personalq.ui.theme import CSS, HEADER, MARK_COLORS, theme

LOOK: dict[str, Any] = {"theme": theme(), "css": CSS, "footer_links": ["gradio", "settings"]}
"""What `launch` needs beside the page: without it colours and layout are Gradio's own."""

PICK = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-index]');
  if (card) trigger('select', {index: Number(card.dataset.index), value: null});
});
"""
SHOW_PICTURES = """
() => { setTimeout(() => document.getElementById('outputs')?.scrollIntoView({block: 'nearest'}), 500); }
"""
"""On a phone the pictures stand above the button."""
Parts = dict[str, Any]


def build(settings: Settings, on_progress: Progress | None = None) -> gr.Blocks:
    """The page over the repository of `settings`; `on_progress` counts the files read. Raises CatalogError."""
    return page(Desk(settings, on_progress))


def page(desk: Desk) -> gr.Blocks:
    """The page over a desk."""
    handlers = Handlers(desk)
    with gr.Blocks(title="PersonalQ", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        parts: Parts = {"sess": gr.State({}, time_to_live=3600)}
        with gr.Row(elem_id="header"):
            gr.HTML(HEADER, elem_id="brand")
            parts["status"] = gr.HTML(elem_id="status")
        with gr.Row(elem_id="work"):
            with gr.Column(elem_id="left", scale=5, min_width=320):
                _talk(parts, starters(desk.catalog.checkpoints))
            with gr.Column(elem_id="right", scale=7, min_width=320):
                parts["shelf"] = gr.HTML(handlers.shelf(), js_on_load=PICK, elem_id="shelf")
                _studio(parts)
                _outputs(parts)
                parts["cands"] = gr.HTML(js_on_load=PICK, visible=False, elem_id="cands")
        _wire_talk(parts, handlers)
        _wire_pictures(parts, Comparison(desk))
        blocks.load(handlers.on_load, None, parts["status"], **QUIET, concurrency_limit=None)
    return blocks


QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _talk(parts: Parts, requests: list[str]) -> None:
    with gr.Column(elem_id="talk"):
        parts["chat"] = gr.Chatbot(
            elem_id="chat",
            label="Conversation",
            show_label=False,
            height=470,
            buttons=[],
            latex_delimiters=[],
            feedback_options=None,
            group_consecutive_messages=False,
            placeholder="### What shall we draw?\nSay it your way. One question comes back only if it must.",
        )
        parts["box"] = gr.Textbox(
            label="Your request",
            placeholder="my dog on the beach",
            submit_btn=True,
            max_length=500,
            elem_id="box",
        )
        with gr.Column(elem_id="starters") as parts["intro"]:
            parts["starters"] = [gr.Button(text, size="sm", elem_classes="starter") for text in requests]


def _studio(parts: Parts) -> None:
    with gr.Column(visible=False, elem_id="studio") as parts["studio"]:
        parts["prompt"] = gr.HighlightedText(
            label="Rewritten prompt",
            color_map=MARK_COLORS,
            show_legend=True,
            elem_id="prompt",
        )
        with gr.Row(elem_id="edit"):
            parts["prompt_box"] = gr.Textbox(
                label="Edit the prompt", lines=1, max_lines=4, max_length=2000, scale=8, elem_id="prompt-box"
            )
            parts["reset"] = gr.Button("Reset", size="sm", scale=1, min_width=80, elem_id="reset")
        parts["warning"] = gr.Markdown(visible=False, elem_id="warning")
        with gr.Row(elem_id="controls"):
            parts["seed"] = gr.Number(new_seed, label="Seed", precision=0, minimum=0, min_width=120, elem_id="seed")
            parts["dice"] = gr.Button("New seed", size="sm", scale=0, min_width=90, elem_id="dice")
            parts["steps"] = gr.Slider(1, 50, 20, step=1, label="Steps", buttons=[], min_width=150, elem_id="steps")
            parts["guidance"] = gr.Slider(
                1, 12, 3.5, step=0.5, label="Guidance", buttons=[], min_width=150, elem_id="guidance"
            )
        with gr.Row(elem_id="actions"):
            parts["precision"] = gr.Dropdown(
                [(name, precision) for precision, name in PRECISIONS.items()],
                value="taq-w8a8",
                label="Compare with",
                info="TAQ keeps your trigger in full precision",
                scale=3,
                min_width=200,
                elem_id="precision",
            )
            parts["go"] = gr.Button("Generate both", variant="primary", scale=3, min_width=150, elem_id="go")
            parts["stop"] = gr.Button("Stop", variant="stop", visible=False, scale=1, min_width=90, elem_id="stop")


def _outputs(parts: Parts) -> None:
    with gr.Column(visible=False, elem_id="outputs") as parts["outputs"]:
        parts["progress"] = gr.HTML(elem_id="progress")
        with gr.Row(elem_id="pictures"):
            for name, label in (("reference", "Full precision"), ("quantised", "Quantised")):
                parts[name] = gr.Image(
                    label=label,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    min_width=140,
                    elem_id=name,
                )
        parts["memory"] = gr.HTML(elem_id="memory")


def _of(parts: Mapping[str, Any], *names: str) -> list[Any]:
    return [parts[name] for name in names]


def _wire_talk(parts: Parts, handlers: Handlers) -> None:
    talk: dict[str, Any] = {**QUIET, "concurrency_id": "cpu", "concurrency_limit": 8}
    outputs, context = _of(parts, *Turn._fields), _of(parts, "chat", "sess")
    parts["box"].submit(handlers.turn, [parts["box"], *context], outputs, trigger_mode="once", validator=filled, **talk)
    for button in parts["starters"]:
        button.click(handlers.turn, [button, *context], outputs, trigger_mode="once", **talk)
    clicks: dict[str, tuple[Any, Callable[..., Any]]] = {
        "option": (parts["chat"].option_select, handlers.on_option),
        "card": (parts["cands"].select, handlers.on_card),
        "shelf": (parts["shelf"].select, handlers.on_shelf),
    }
    for event, handler in clicks.values():
        event(handler, context, outputs, trigger_mode="once", **talk)
    parts["chat"].clear(handlers.on_clear, None, outputs, **talk)
    edited = _of(parts, "prompt", "warning")
    parts["prompt_box"].change(  # `input` misses Backspace, cut and paste
        handlers.on_edit, _of(parts, "prompt_box", "sess"), edited, trigger_mode="always_last", **talk
    )
    parts["reset"].click(handlers.on_reset, parts["sess"], [parts["prompt_box"], *edited], **talk)


def _wire_pictures(parts: Parts, comparison: Comparison) -> None:
    names = ("chat", "sess", "prompt_box", "seed", "steps", "guidance", "precision")
    run = parts["go"].click(
        comparison.on_compare,
        _of(parts, *names),
        _of(parts, *Pictures._fields),
        concurrency_id="gpu",
        concurrency_limit=1,
        trigger_mode="once",
        show_progress="minimal",
        show_progress_on=parts["progress"],
        api_visibility="private",
    )
    parts["stop"].click(None, cancels=[run], queue=False, **QUIET)  # first: listeners are sent one after the other
    outputs = _of(parts, "progress", "go", "stop")
    parts["stop"].click(comparison.on_stop, None, outputs, concurrency_id="cpu", **QUIET)
    parts["go"].click(None, js=SHOW_PICTURES, api_visibility="private")
    parts["dice"].click(new_seed, None, parts["seed"], queue=False, **QUIET)
