"""The widgets of the other screens: history, own concepts, settings. What they do is wired elsewhere."""

from __future__ import annotations

from typing import Any

import gradio as gr

from personalq.ui.controls import ROWS
from personalq.ui.widgets.clicks import CLICKS

Parts = dict[str, Any]
THEMES = ("System", "Light", "Dark")


def history(parts: Parts) -> None:
    """Pictures made with this browser, and a place to drop one."""
    parts["dropped"] = gr.File(
        label="Drop a PNG made here, or with A1111 or Forge, to take up its settings",
        file_types=[".png"],
        type="filepath",
        height=150,
        elem_id="dropped",
    )
    parts["history"] = gr.HTML(js_on_load=CLICKS, elem_id="history")


def concepts(parts: Parts, bases: list[str]) -> None:
    """A form for a concept of one's own, and those that were added."""
    gr.Markdown(
        "A LoRA or textual inversion as `.safetensors`, up to 200 MB, or a repository on the Hugging Face Hub. "
        "Only you see it, and it is gone when you close this page.",
        elem_id="concepts-intro",
    )
    with gr.Row():
        with gr.Column(min_width=280):
            parts["own_file"] = gr.File(
                label="Weights", file_types=[".safetensors"], type="filepath", height=150, elem_id="own-file"
            )
            parts["own_repo"] = gr.Textbox(
                "", label="or a Hub repository", placeholder="owner/name", max_length=200, elem_id="own-repo"
            )
        with gr.Column(min_width=280):
            parts["own_trigger"] = gr.Textbox(
                "", label="Trigger", info="Empty takes the file's own", max_length=100, elem_id="own-trigger"
            )
            parts["own_noun"] = gr.Textbox("", label="What it is", placeholder="dog", max_length=60, elem_id="own-noun")
            parts["own_base"] = gr.Dropdown(
                ["", *bases], value="", label="Base model", allow_custom_value=True, elem_id="own-base"
            )
            parts["own_license"] = gr.Textbox(
                "", label="Licence", placeholder="unknown", max_length=100, elem_id="own-license"
            )
    parts["own_consent"] = gr.Checkbox(False, label="I may use these weights and what they show", elem_id="own-consent")
    parts["own_add"] = gr.Button("Add the concept", variant="primary", elem_id="own-add")
    parts["own_said"] = gr.Markdown(elem_id="own-said")
    parts["own_list"] = gr.HTML(js_on_load=CLICKS, elem_id="own-list")


def settings(parts: Parts) -> None:
    """What holds for every picture."""
    parts["protect"] = gr.Radio(
        list(ROWS), value=next(iter(ROWS)), label="TAQ keeps in full precision", elem_id="protect"
    )
    parts["blind"] = gr.Checkbox(
        False,
        label="Blind test",
        info="Sides are shuffled and nothing is told until you have voted",
        elem_id="blind",
    )
    parts["previews"] = gr.Checkbox(True, label="Previews while a picture is made", elem_id="previews")
    parts["theme"] = gr.Radio(list(THEMES), value=THEMES[0], label="Colours", elem_id="theme")
    parts["tally"] = gr.HTML(elem_id="tally")
    parts["clear"] = gr.Button("Clear my data", variant="stop", elem_id="clear")
    parts["cleared"] = gr.Markdown(elem_id="cleared")
