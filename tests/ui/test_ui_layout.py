"""The page as Gradio sees it: every event fits its handler, and Gradio runs the long ones as they are meant."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from scripted_desk import PIP, REX, Desk, browser, controls, session

from personalq.ui import layout
from personalq.ui.controls import Controls
from personalq.ui.events.comparison import Pictures
from personalq.ui.events.conversation import Turn
from personalq.ui.events.grid import Grid
from personalq.ui.events.shelves import FORM, Emptied, Restored
from personalq.ui.keepsakes import SETTINGS


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield layout.page(Desk())  # type: ignore[arg-type]


def events(blocks: gr.Blocks) -> list[Any]:
    """The events of the page, without those of the API."""
    return [one for one in blocks.fns.values() if one.api_visibility == "private"]


def named(blocks: gr.Blocks, name: str) -> Any:
    return next(one for one in events(blocks) if one.fn and getattr(one.fn, "__name__", "") == name)


def widget(blocks: gr.Blocks, elem_id: str) -> Any:
    return next(one for one in blocks.blocks.values() if getattr(one, "elem_id", None) == elem_id)


# --- wiring ------------------------------------------------------------------------------------


def is_given_by_gradio(parameter: inspect.Parameter) -> bool:
    special = ("gr.Request", "gr.SelectData", "gr.Progress")
    return str(parameter.annotation) in special


def test_every_event_hands_its_handler_what_it_takes(blocks: gr.Blocks) -> None:
    seen = 0
    for one in events(blocks):
        if one.fn is None:
            continue
        parameters = inspect.signature(one.fn).parameters.values()
        taken = [each for each in parameters if not is_given_by_gradio(each)]
        if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in taken):
            assert len(one.inputs) == len(taken) - 1 + len(Controls._fields), one.fn
        else:
            assert len(one.inputs) == len(taken), one.fn
        seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    ("handler", "fields"),
    [
        ("turn", Turn), ("on_option", Turn), ("on_card", Turn), ("on_use", Turn), ("on_compare", Pictures),
        ("on_strip", Pictures), ("on_grid", Grid), ("on_history", Restored), ("on_drop", Restored),
    ],
)  # fmt: skip
def test_what_a_handler_gives_goes_to_the_widgets_of_its_names(blocks: gr.Blocks, handler: str, fields: Any) -> None:
    outputs = named(blocks, handler).outputs
    assert len(outputs) == len(fields._fields)
    for name, output in zip(fields._fields, outputs, strict=True):
        elem_id = getattr(output, "elem_id", None)
        assert elem_id in (None, name.replace("_", "-"), {"intro": "starters"}.get(name)), name


def test_controls_are_handed_over_by_their_names(blocks: gr.Blocks) -> None:
    for handler in ("on_compare", "on_grid"):
        given = named(blocks, handler).inputs[-len(Controls._fields) :]
        assert [one.elem_id for one in given] == [name.replace("_", "-") for name in Controls._fields]


def test_pictures_are_made_one_at_a_time_and_talk_goes_on(blocks: gr.Blocks) -> None:
    groups = {one.fn.__name__: one.concurrency_id for one in events(blocks) if one.fn}
    assert groups["on_compare"] == groups["on_grid"] == "gpu"
    assert {groups[name] for name in ("turn", "on_option", "on_history", "on_add", "on_made")} == {"cpu"}
    limits = {one.concurrency_limit for one in blocks.fns.values() if one.concurrency_id == "gpu"}
    assert limits == {1}


def test_no_event_of_the_page_has_a_name_in_the_api(blocks: gr.Blocks) -> None:
    public = {one.api_name for one in blocks.fns.values() if one.api_visibility != "private"}
    assert public == {
        "search_concepts", "clarify", "rewrite_prompt", "compare_images", "read_recipe", "vram_report",
    }  # fmt: skip


def test_who_leaves_takes_their_files_along(blocks: gr.Blocks) -> None:
    states = [one for one in blocks.blocks.values() if isinstance(one, gr.State)]
    assert sum(one.delete_callback.__name__ == "leave" for one in states) == 1
    assert {one.time_to_live for one in states if one.value == {}} == {layout.LASTS}


# --- widgets -----------------------------------------------------------------------------------


def test_every_widget_has_an_id_of_its_own(blocks: gr.Blocks) -> None:
    ids = [one.elem_id for one in blocks.blocks.values() if getattr(one, "elem_id", None)]
    assert len(ids) == len(set(ids)) > 50


def test_a_page_is_first_as_the_controls_have_it(blocks: gr.Blocks) -> None:
    for name, value in Controls(seed=0)._asdict().items():
        assert (widget(blocks, name.replace("_", "-")).value or type(value)()) == value, name


def test_clearing_brings_the_fields_and_settings_of_the_first_page_back(blocks: gr.Blocks) -> None:
    emptied = Emptied._field_defaults
    for name in (*SETTINGS, *FORM, *(one for one in Controls._fields if one in Emptied._fields)):
        first, empty = widget(blocks, name.replace("_", "-")).value, emptied[name]
        assert first == empty or not (first or empty), name


@pytest.mark.parametrize(("widget_", "event", "handler"), [("chat", "clear", "on_bin"), ("clear", "click", "on_clear")])
def test_what_is_being_made_is_stopped_before_the_page_is_cleared_in_one(
    blocks: gr.Blocks, widget_: str, event: str, handler: str
) -> None:
    target = (widget(blocks, widget_)._id, event)
    stop, clear = (one for one in blocks.fns.values() if target in one.targets and (one.fn or one.cancels))
    assert set(stop.cancels) == {named(blocks, name)._id for name in ("on_compare", "on_grid")}
    assert clear.fn is not None and clear.fn.__name__ == handler
    given = clear.fn(session(), *([browser()] if handler == "on_clear" else []))
    assert {"chat", "studio", "outputs", "memory", "grid-out", "cands", "stop"} <= {one.elem_id for one in given}
    assert set(given) <= set(clear.outputs)


def test_starters_and_shelf_are_of_the_catalogue(blocks: gr.Blocks) -> None:
    buttons = [one.value for one in blocks.blocks.values() if "starter" in (getattr(one, "elem_classes", None) or [])]
    shelf = widget(blocks, "shelf").value
    assert buttons and all(f'data-index="{i}"' in shelf for i in (0, 1))
    assert PIP.name in shelf and REX.name in shelf


def test_the_page_does_not_wait_for_torch() -> None:
    sources = [ast.parse(path.read_text()) for path in Path(layout.__file__).parent.rglob("*.py")]
    imports = {node.module for source in sources for node in source.body if isinstance(node, ast.ImportFrom)}
    needed = sorted(name for name in imports if name and re.match(r"personalq\.(?!ui)", name))
    command = f"import sys, {', '.join(needed)}; sys.exit('torch' in sys.modules)"
    assert "personalq.catalog.own" in needed
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


# --- as Gradio runs it -------------------------------------------------------------------------


def run(blocks: gr.Blocks, name: str, inputs: list[Any], state: SessionState) -> list[dict[str, Any]]:
    """Everything that an event gives, as Gradio would send it."""
    event, given = named(blocks, name), list(inputs)
    request = gr.Request(session_hash="s")
    request.request = browser()

    async def steps() -> list[dict[str, Any]]:
        shown, iterator = [], None
        while True:
            result = await blocks.process_api(event, given, state=state, request=request, iterator=iterator)
            shown.append(result)
            iterator = result["iterator"]
            if not result["is_generating"]:
                return shown

    return asyncio.run(steps())


def state_of(blocks: gr.Blocks, name: str) -> int:
    """The id of a state that an event of the comparison gives."""
    return named(blocks, "on_compare").outputs[Pictures._fields.index(name)]._id


def values(**given: Any) -> list[Any]:
    return [None, *controls(**{"steps": 2, "precision": "taq-w8a8", **given})]


def chosen(blocks: gr.Blocks) -> SessionState:
    state = SessionState(blocks)
    state[named(blocks, "on_compare").inputs[0]._id] = session()
    return state


def test_gradio_runs_a_comparison_to_its_end_and_tells_that_it_is_made(blocks: gr.Blocks) -> None:
    state = chosen(blocks)
    shown = run(blocks, "on_compare", values(), state)
    made = state_of(blocks, "made")
    changed = [one["changed_state_ids"] for one in shown]
    assert sum(made in ids for ids in changed) == 1 and len(state[made]["thumbs"]) == 1
    pictures = {
        value["value"]["orig_name"]
        for one in shown
        for value in one["data"]
        if isinstance(value, dict) and isinstance(value.get("value"), dict) and "orig_name" in value["value"]
    }
    assert {"personalq-7-reference.png", "personalq-7-taq-w8a8.png"} <= pictures


def test_a_picture_is_served_byte_for_byte(blocks: gr.Blocks) -> None:
    state = chosen(blocks)
    shown = run(blocks, "on_compare", values(seed=8), state)
    written = Path(state[state_of(blocks, "made")]["paths"][0][0]).read_bytes()
    last = [one["data"][1] for one in shown if isinstance(one["data"][1], dict) and one["data"][1].get("value")][-1]
    assert Path(last["value"]["path"]).read_bytes() == written and b"personalq" in written


def test_gradio_sends_nothing_telling_before_a_blind_vote(blocks: gr.Blocks) -> None:
    shown = run(blocks, "on_compare", values(blind=True), chosen(blocks))
    sent = re.sub(r'"path": "[^"]*/', '"path": "', json.dumps([one["data"] for one in shown], default=str)).lower()
    assert [word for word in ("reference", "taq", "full precision", "zwx") if word in sent] == []
    assert "7-a.png" in sent and "7-b.png" in sent


def test_a_widened_slider_takes_the_value_that_widened_it(blocks: gr.Blocks) -> None:
    state, slider = SessionState(blocks), widget(blocks, "guidance")
    outputs = named(blocks, "on_history").outputs
    update = gr.update(value=20.0, minimum=1, maximum=20.0)
    given = [update if one is slider else gr.skip() for one in outputs]
    asyncio.run(blocks.postprocess_data(named(blocks, "on_history"), given, state))
    assert state[slider._id].preprocess(20.0) == 20.0
    with pytest.raises(gr.Error):
        slider.preprocess(20.0)


@pytest.mark.parametrize(("name", "value"), [("steps", 51), ("precision", "reference"), ("protect", "x"), ("batch", 9)])
def test_gradio_itself_refuses_what_no_widget_offers(blocks: gr.Blocks, name: str, value: Any) -> None:
    with pytest.raises(gr.Error):
        run(blocks, "on_compare", values(**{name: value}), chosen(blocks))
