"""The widgets of the first screen: conversation, prompt, controls, pictures. What they do is wired elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from personalq.ui.controls import GUIDANCE, LAST_SEED, MOST_COUNT, MOST_PROMPT, MOST_STEPS, SHAPES, WEIGHTS
from personalq.ui.look.theme import MARK_COLORS
from personalq.ui.widgets.clicks import CLICKS

Parts = dict[str, Any]
VIEWS = ("Side by side", "Slider", "Flip", "Difference")
TALLEST = 470
"""Pixels of the conversation."""


def draw(parts: Parts, requests: list[str], shelf: str, precisions: Mapping[str, str]) -> None:
    """The whole screen. `requests` are first requests to click on, `shelf` the concepts of the repository."""
    with gr.Row(elem_id="work"):
        with gr.Column(elem_id="left", scale=5, min_width=320):
            _talk(parts, requests)
        with gr.Column(elem_id="right", scale=7, min_width=320):
            parts["shelf"] = gr.HTML(shelf, js_on_load=CLICKS, elem_id="shelf")
            _outputs(parts)
            _studio(parts, precisions)
            parts["memory"] = gr.HTML(elem_id="memory")
            parts["cands"] = gr.HTML(js_on_load=CLICKS, visible=False, elem_id="cands")


def _talk(parts: Parts, requests: list[str]) -> None:
    with gr.Column(elem_id="talk"):
        parts["chat"] = gr.Chatbot(
            elem_id="chat",
            label="Conversation",
            show_label=False,
            height=TALLEST,
            buttons=[],
            latex_delimiters=[],
            feedback_options=None,
            group_consecutive_messages=False,
            placeholder="### What shall we draw?\nSay it your way. One question comes back only if it must.",
        )
        parts["box"] = gr.Textbox(
            label="Your request", placeholder="my dog on the beach", submit_btn=True, max_length=500, elem_id="box"
        )
        with gr.Column(elem_id="starters") as parts["intro"]:
            parts["starters"] = [gr.Button(text, size="sm", elem_classes="starter") for text in requests]


def _studio(parts: Parts, precisions: Mapping[str, str]) -> None:
    with gr.Column(visible=False, elem_id="studio") as parts["studio"]:
        parts["prompt"] = gr.HighlightedText(
            label="Rewritten prompt", color_map=MARK_COLORS, show_legend=True, elem_id="prompt"
        )
        parts["picked"] = gr.Textbox(visible=False, elem_id="picked")
        with gr.Row(elem_id="edit"):
            parts["prompt_box"] = gr.Textbox(
                label="Edit the prompt", lines=1, max_lines=4, max_length=MOST_PROMPT, scale=8, elem_id="prompt-box"
            )
            parts["reset"] = gr.Button("Reset", size="sm", scale=1, min_width=80, elem_id="reset")
        parts["warning"] = gr.Markdown(visible=False, elem_id="warning")
        with gr.Row(elem_id="weights"):
            for name in ("weight_a", "weight_b"):
                parts[name] = gr.Slider(
                    *WEIGHTS, 1, step=0.05, label="Weight", buttons=[], visible=False, elem_id=name.replace("_", "-")
                )
        with gr.Row(elem_id="controls"):
            parts["seed"] = gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=LAST_SEED, min_width=120, elem_id="seed"
            )
            parts["locked"] = gr.Checkbox(True, label="Lock seed", min_width=90, scale=0, elem_id="locked")
            parts["dice"] = gr.Button("New seed", size="sm", scale=0, min_width=90, elem_id="dice")
            parts["steps"] = gr.Slider(
                1, MOST_STEPS, 20, step=1, label="Steps", buttons=[], min_width=150, elem_id="steps"
            )
        with gr.Accordion("More: negative prompt, guidance, size, batch", open=False, elem_id="more"):
            parts["negative"] = gr.Textbox(
                "", label="Negative prompt", placeholder="What should not be there", max_length=1000, elem_id="negative"
            )
            with gr.Row():
                parts["guidance"] = gr.Slider(
                    *GUIDANCE, 3.5, step=0.5, label="Guidance", buttons=[], min_width=150, elem_id="guidance"
                )
                parts["size"] = gr.Dropdown(
                    list(SHAPES),
                    value="Square",
                    label="Size",
                    info="A shape, or pixels such as 512 x 768",
                    allow_custom_value=True,
                    min_width=150,
                    elem_id="size",
                )
                parts["batch"] = gr.Slider(
                    1, MOST_COUNT, 1, step=1, label="Pictures", buttons=[], min_width=120, elem_id="batch"
                )
        with gr.Row(elem_id="actions"):
            parts["precision"] = gr.Dropdown(
                [(name, precision) for precision, name in precisions.items()],
                value=next(iter(precisions)),
                label="Compare with",
                info="TAQ keeps your trigger in full precision",
                scale=3,
                min_width=200,
                elem_id="precision",
            )
            parts["go"] = gr.Button("Generate both", variant="primary", scale=3, min_width=150, elem_id="go")
        _grid(parts, precisions)


def _outputs(parts: Parts) -> None:
    with gr.Column(visible=False, elem_id="outputs") as parts["outputs"]:
        with gr.Row(elem_id="doing"):
            parts["progress"] = gr.HTML(elem_id="progress")
            parts["stop"] = gr.Button("Stop", variant="stop", visible=False, scale=0, min_width=90, elem_id="stop")
        with gr.Column(visible=False, elem_id="views") as parts["views"]:
            parts["view"] = gr.Radio(list(VIEWS), value=VIEWS[0], label="View", container=False, elem_id="view")
            gr.HTML(SLIDER, js_on_load=SLIDE, elem_id="slide")
        with gr.Row(elem_id="pictures"):
            for name, label, said in (
                ("picture_a", "Full precision", "First picture"),
                ("picture_b", "Quantised", "Second picture"),
                ("heat", "Difference", "Where the pictures differ"),
            ):
                parts[name] = gr.Image(
                    label=label,
                    alt_text=said,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    min_width=140,
                    elem_id=name.replace("_", "-"),
                )
        parts["legend"] = gr.HTML(elem_id="legend")
        parts["strip"] = gr.HTML(js_on_load=CLICKS, visible=False, elem_id="strip")
        with gr.Row(visible=False, elem_id="votes") as parts["votes"]:
            parts["vote_a"] = gr.Button("A is better", size="sm", elem_id="vote-a")
            parts["vote_same"] = gr.Button("No difference", size="sm", elem_id="vote-same")
            parts["vote_b"] = gr.Button("B is better", size="sm", elem_id="vote-b")
        parts["verdict"] = gr.HTML(elem_id="verdict")


def _grid(parts: Parts, precisions: Mapping[str, str]) -> None:
    with gr.Accordion("Grid: concept weight against precision", open=False, elem_id="grid"):
        with gr.Row():
            parts["grid_weights"] = gr.Textbox(
                "0, 0.5, 1", label="Weights", info="Rows, up to six", max_length=80, elem_id="grid-weights"
            )
            parts["grid_precisions"] = gr.CheckboxGroup(
                [(name, precision) for precision, name in precisions.items()],
                value=list(precisions)[:2],
                label="Beside full precision",
                elem_id="grid-precisions",
            )
        with gr.Row():
            parts["grid_go"] = gr.Button("Make the grid", size="sm", elem_id="grid-go")
            parts["grid_stop"] = gr.Button("Stop", size="sm", variant="stop", visible=False, elem_id="grid-stop")
            parts["grid_file"] = gr.DownloadButton("Download", size="sm", visible=False, elem_id="grid-file")
        parts["grid_out"] = gr.HTML(elem_id="grid-out")


SLIDER = """
<label class="pq-slide">Divider <input type="range" min="0" max="100" value="50"></label>
<p class="pq-how" id="flip-hint">Press X, or the picture, to flip.</p>
"""
SLIDE = """
element.addEventListener('input', (event) => {
  document.getElementById('pictures').style.setProperty('--divider', event.target.value + '%');
});
"""
