from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image
from scripted_desk import BASE_SIZE, PIP, REX, Clock, selection
from scripted_desk import Desk as Scripted
from starlette.datastructures import Headers

from personalq.errors import ModelError, PersonalQError, PictureError, UnknownCheckpointError
from personalq.records import Candidate, Checkpoint, Frame, Job, NoMatch, Option, Question, Recalled, Request
from personalq.ui.api import LARGEST, Api, endpoints
from personalq.ui.limits import Allowance, Limits

NAMES = ["search_concepts", "clarify", "rewrite_prompt", "compare_images", "read_recipe", "vram_report"]
PLENTY = Allowance(turns_per_minute=1000, pictures_per_hour=1000, uploads_per_hour=1000, at_once=1, crowd=10)
ASKED = Question(
    "Which dog?",
    (Option("o1", "Pip", ("pip",)), Option("o2", "Rex", ("rex",))),
    (Candidate(REX, probability=0.4), Candidate(PIP, probability=0.5, reason="a dog")),
)
NOTHING = NoMatch((Candidate(REX, probability=0.1),), "No cat here.", (Candidate(PIP), Candidate(REX)))
BROWSER: Any = SimpleNamespace(headers=Headers(), client=SimpleNamespace(host="127.0.0.1"), session_hash="s")


class Desk(Scripted):
    """A scripted desk that also saves, recalls and reports, and whose steps can be held up."""

    def __init__(self, *script: Any, fails: PersonalQError | None = None) -> None:
        super().__init__(*script, fails=fails)
        self.go_on = threading.Event()
        self.go_on.set()
        self.pause = 20.0
        """Seconds that a step waits to go on at most."""
        self.started, self.ended = threading.Event(), threading.Event()
        self.saved: list[Path] = []
        self.recalls: dict[str, Any] = {}

    def choose(self, request: Request, id_: str) -> Any:
        if id_ not in self.known:
            raise UnknownCheckpointError(f"No checkpoint has the id {id_!r}.")
        return super().choose(request, id_)

    def compare(self, job: Job, precisions: tuple[str, ...], on_progress: Any = None) -> Iterator[Frame]:
        self.job = job
        try:
            if self.fails:
                raise self.fails
            self.started.set()
            for variant in precisions:
                for step in range(1, job.steps + 1):
                    self.go_on.wait(self.pause)
                    done = step == job.steps
                    warning = "A trigger was cut off." if done else None
                    yield Frame(variant, step, job.steps, Image.new("RGB", (8, 8)), None, warning, "trigger")
        finally:
            self.ended.set()

    def save(
        self, image: Image.Image, path: Path, job: Job, precision: str, index: int, frame: Frame
    ) -> dict[str, Any]:
        image.save(path)
        self.saved.append(path)
        return {}

    def recall(self, path: Path, own: tuple[Checkpoint, ...] = ()) -> tuple[dict[str, Any], Recalled]:
        if path.name not in self.recalls:
            raise PictureError("The picture does not say how it was made.")
        return {"prompt": "zwx dog"}, self.recalls[path.name]

    def memory(self) -> dict[str, Any]:
        return {"device": "cpu", "peak_allocated": None}


def api(*script: Any, allowed: Allowance = PLENTY, fails: PersonalQError | None = None) -> Api:
    return Api(Desk(*script, fails=fails), Limits(allowed))  # type: ignore[arg-type]


def compared(one: Api, *values: Any) -> list[Any]:
    return list(one.compare_images(*values, request=BROWSER))


# --- finding -----------------------------------------------------------------------------------


def test_concepts_are_found_best_first_and_each_once() -> None:
    found = api(selection(REX, "my dog")).search_concepts("my dog", 5, BROWSER)
    assert [one["id"] for one in found] == ["rex"] and found[0]["triggers"] == ["rx dog"]
    found = api(ASKED).search_concepts("my dog", 5, BROWSER)
    assert {one["id"]: one["probability"] for one in found} == {"rex": 0.4, "pip": 0.5}
    found = api(NOTHING).search_concepts("my cat", 5, BROWSER)
    assert [one["id"] for one in found] == ["rex", "pip"]
    assert len(api(NOTHING).search_concepts("my cat", 1, BROWSER)) == 1


def test_a_request_carries_the_base_and_no_files_leave() -> None:
    one = api(selection(REX, "my dog"))
    one.desk.known["rex"] = REX
    text = json.dumps(one.search_concepts(" my dog ", 5, BROWSER))
    assert one.desk.heard == [("ask", Request("my dog", base="tiny-sd"))]  # type: ignore[attr-defined]
    assert "files" not in text and "preview" not in text


def test_a_question_comes_back_until_it_is_answered() -> None:
    asked = api(ASKED).clarify("my dog", " ", BROWSER)
    assert asked["kind"] == "question" and asked["text"] == "Which dog?"
    assert asked["options"][1] == {"id": "o2", "label": "Rex", "concept_ids": ["rex"]}
    one = api(ASKED, selection(REX, "my dog"))
    chosen = one.clarify("my dog", "o2", BROWSER)
    assert chosen["kind"] == "selection" and chosen["concepts"][0]["id"] == "rex"
    assert chosen["spans"] == [{"start": 0, "end": 6, "text": "rx dog", "role": "trigger", "concept_id": "rex"}]
    assert one.desk.heard[-1] == ("answer", "o2")  # type: ignore[attr-defined]


def test_an_answer_to_no_question_changes_nothing() -> None:
    assert api(selection(PIP, "my dog")).clarify("my dog", "o2", BROWSER)["concepts"][0]["id"] == "pip"
    none = api(NOTHING).clarify("my cat", "o1", BROWSER)
    assert none["kind"] == "no_match" and none["nearest"][0]["id"] == "rex"


def test_a_prompt_is_written_for_a_concept() -> None:
    written = api().rewrite_prompt("my dog on the beach", "pip", BROWSER)
    assert written["prompt"] == "zwx dog on the beach" and written["trigger"] == "zwx dog"
    with pytest.raises(gr.Error, match="No concept has that id"):
        api().rewrite_prompt("my dog", "nobody", BROWSER)


# --- pictures ----------------------------------------------------------------------------------


def test_both_pictures_come_last_and_their_files_go(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock.of_slow_steps(monkeypatch)
    one = api()
    run = one.compare_images("a zwx dog, zwx dog", "pip", 7, 2, 4, BROWSER)
    steps = [next(run) for _ in range(5)]
    assert steps[0] == (None, None, {"picture": "reference", "step": 0, "steps": 2})
    assert steps[4] == (None, None, {"picture": "taq-w4a8", "step": 2, "steps": 2})
    full, quantised, facts = next(run)
    assert Image.open(full.path).size == Image.open(quantised.path).size == (8, 8)
    assert facts["warnings"] == ["A trigger was cut off."] and facts["seed"] == 7 and facts["protected"] == "trigger"
    assert [mark["start"] for mark in facts["spans"]] == [2, 11]
    with pytest.raises(StopIteration):
        next(run)
    assert not Path(full.path).parent.exists()


@pytest.mark.parametrize(("bits", "precision"), [(8, "taq-w8a8"), (4, "taq-w4a8")])
def test_bits_choose_the_precision(bits: int, precision: str) -> None:
    one = api()
    assert compared(one, "zwx dog", "pip", 0, 1, bits)[-1][2]["precision"] == precision
    job = one.desk.job  # type: ignore[attr-defined]
    assert job.checkpoints == ((PIP, 1.0),) and job.spans[0].role == "trigger"


def test_seeds_are_those_of_the_page_and_of_other_programs() -> None:
    one = api()
    assert compared(one, "zwx dog", "pip", 2**53 - 1, 1, 4)[-1][2]["seed"] == 2**53 - 1


@pytest.mark.parametrize("prompt", ["a dog", "ZWX dog", "zwx dogs"])
def test_a_prompt_without_the_trigger_is_drawn_as_it_is_and_said(prompt: str) -> None:
    one = api()
    facts = compared(one, prompt, "pip", 0, 1, 8)[-1][2]
    assert one.desk.job.prompt == prompt and facts["spans"] == []  # type: ignore[attr-defined]
    assert "does not contain 'zwx dog'" in facts["warnings"][0]


def test_leaving_stops_the_denoiser_and_frees_the_place() -> None:
    one = api()
    run = one.compare_images("zwx dog", "pip", 0, 5, 4, BROWSER)
    next(run)
    assert one.desk.job is None  # type: ignore[attr-defined]  # a client that leaves before the first yield holds nothing
    next(run)
    run.close()
    assert one.desk.ended.is_set() and one.desk.saved == []  # type: ignore[attr-defined]
    assert compared(one, "zwx dog", "pip", 0, 1, 4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("", "pip", 0, 1, 4), "prompt is empty"),
        (("x" * 2001, "pip", 0, 1, 4), "2001 characters"),
        ((["zwx dog"], "pip", 0, 1, 4), "prompt must be text"),
        (("zwx dog", "nobody", 0, 1, 4), "No concept has that id"),
        (("zwx dog", "pip", -1, 1, 4), "seed must be"),
        (("zwx dog", "pip", 2**53, 1, 4), "seed must be"),
        (("zwx dog", "pip", "0", 1, 4), "seed must be"),
        (("zwx dog", "pip", 0, 0, 4), "steps must be"),
        (("zwx dog", "pip", 0, 51, 4), "steps must be"),
        (("zwx dog", "pip", 0, 1.5, 4), "steps must be"),
        (("zwx dog", "pip", 0, True, 4), "steps must be"),
        (("zwx dog", "pip", 0, float("nan"), 4), "steps must be"),
        (("zwx dog", "pip", 0, 1, 6), "bits must be 4 or 8"),
        (("zwx dog", "pip", 0, 1, None), "bits must be 4 or 8"),
    ],
)
def test_bad_values_are_said_and_nothing_is_drawn(values: tuple[Any, ...], said: str) -> None:
    one = api()
    with pytest.raises(gr.Error, match=said):
        compared(one, *values)
    assert one.desk.job is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", [0, 21, "5", None, float("inf"), False])
def test_a_bad_limit_is_said(limit: Any) -> None:
    with pytest.raises(gr.Error, match="limit must be a whole number from 1 to 20"):
        api(ASKED).search_concepts("my dog", limit, BROWSER)


def test_errors_do_not_tell_where_things_are() -> None:
    one = api(fails=ModelError("/home/someone/models/base-1.5 (and/or https://hf.co/a/b) cannot be loaded."))
    with pytest.raises(gr.Error) as told:
        compared(one, "zwx dog", "pip", 0, 1, 4)
    assert told.value.message == "base-1.5 (and/or https://hf.co/a/b) cannot be loaded."
    assert not told.value.print_exception


def test_a_visitor_who_asks_too_much_is_told() -> None:
    few = Allowance(turns_per_minute=1, pictures_per_hour=2, uploads_per_hour=1, at_once=1, crowd=1)
    one = api(ASKED, ASKED, allowed=few)
    one.search_concepts("my dog", 1, BROWSER)
    with pytest.raises(gr.Error, match="try again in"):
        one.vram_report(BROWSER)
    compared(one, "zwx dog", "pip", 0, 1, 4)
    with pytest.raises(gr.Error, match="2 pictures an hour"):
        compared(one, "zwx dog", "pip", 0, 1, 4)


# --- recipes -----------------------------------------------------------------------------------


@pytest.fixture()
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def test_a_recipe_is_what_the_file_says_and_what_can_be_repeated(uploads: Path) -> None:
    (uploads / "made.png").write_bytes(b"png")
    one = api()
    job = Job("zwx dog", seed=4, steps=9, checkpoints=((PIP, 0.8),))
    one.desk.recalls["made.png"] = Recalled(job, "taq-w4a8", ("Rex",), ("Another base.",))  # type: ignore[attr-defined]
    read = one.read_recipe({"path": str(uploads / "made.png")}, BROWSER)
    assert read["recipe"] == {"prompt": "zwx dog"} and read["missing"] == ["Rex"]
    assert read["here"]["seed"] == 4 and read["here"]["concepts"] == [{"id": "pip", "weight": 0.8}]


def test_what_compare_images_cannot_repeat_is_said(uploads: Path) -> None:
    (uploads / "made.png").write_bytes(b"png")
    one = api()

    def remarks(job: Job) -> list[str]:
        one.desk.recalls["made.png"] = Recalled(job, None)  # type: ignore[attr-defined]
        told: list[str] = one.read_recipe({"path": str(uploads / "made.png")}, BROWSER)["remarks"]
        return told

    own = Job("zwx dog", width=BASE_SIZE[0], height=BASE_SIZE[1], checkpoints=((PIP, 1.0),))
    assert remarks(own) == remarks(Job("zwx dog", seed=2**32 - 1, steps=50)) == []
    other = Job("x", "blur", (), ((PIP, 0.8), (REX, 1.0)), 2**60, 120, 7, width=64, height=8)
    (said,) = remarks(other)
    for word in ("negative", "guidance 7", "64 x 8", "weight 0.8 of pip", "2 concepts", "120 steps", "seed 11529215"):
        assert word in said
    one.desk.busy = ["Getting ready"] * 3  # type: ignore[attr-defined]
    assert "pixels" not in remarks(other)[0]


def test_a_picture_without_a_recipe_is_said(uploads: Path) -> None:
    (uploads / "plain.png").write_bytes(b"png")
    with pytest.raises(gr.Error, match="does not say how it was made"):
        api().read_recipe({"path": str(uploads / "plain.png")}, BROWSER)


def test_only_uploads_are_opened(uploads: Path, tmp_path: Path) -> None:
    (tmp_path / "made.png").write_bytes(b"secret")
    (uploads / "link.png").symlink_to(tmp_path / "made.png")
    one = api()
    one.desk.recalls["made.png"] = Recalled(Job("secret"), None)  # type: ignore[attr-defined]
    paths = ["/etc/passwd", str(tmp_path / "made.png"), str(uploads / "link.png"), str(uploads / "../made.png")]
    for path in [*paths, str(uploads), "", "\0", "x" * 5000, 5, None, ["a"]]:
        with pytest.raises(gr.Error, match="was not uploaded"):
            one.read_recipe({"path": path}, BROWSER)
    for image in (None, "made.png", [], {}):
        with pytest.raises(gr.Error, match="was not uploaded"):
            one.read_recipe(image, BROWSER)  # type: ignore[arg-type]


def test_a_file_that_is_too_large_is_not_opened(uploads: Path) -> None:
    with (uploads / "big.png").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(gr.Error, match="larger than 20 MB"):
        api().read_recipe({"path": str(uploads / "big.png")}, BROWSER)


# --- as Gradio serves them ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Desk, gr.Blocks]]:
    desk = Desk()
    with gr.Blocks(analytics_enabled=False) as blocks:
        endpoints(desk, Limits(PLENTY))  # type: ignore[arg-type]
    _, url, _ = blocks.queue().launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False)
    yield url, desk, blocks
    desk.go_on.set()
    blocks.close(verbose=False)


def client(url: str) -> Client:
    return Client(url, verbose=False, analytics_enabled=False, download_files=False)


def test_the_functions_have_the_names_and_types_of_the_design(served: tuple[str, Desk, gr.Blocks]) -> None:
    info: Mapping[str, Any] = served[2].get_api_info()["named_endpoints"]
    assert [name.lstrip("/") for name in info] and {name.lstrip("/") for name in info} == set(NAMES)
    assert len(info["/compare_images"]["returns"]) == 3
    for name in NAMES:
        assert "Returns:" in (inspect.getdoc(getattr(Api, name)) or "")


def test_a_second_picture_of_the_same_visitor_does_not_wait(served: tuple[str, Desk, gr.Blocks]) -> None:
    url, desk, _ = served
    desk.go_on.clear()
    desk.started.clear()
    one, other = client(url), client(url)
    job = one.submit("zwx dog", "pip", 0, 1, 4, api_name="/compare_images")
    assert desk.started.wait(60)
    with pytest.raises(ValidationError, match="other picture is still being made"):
        one.predict("zwx dog", "pip", 1, 1, 4, api_name="/compare_images")
    waits = other.submit("zwx dog", "pip", 2, 1, 4, api_name="/compare_images")
    desk.go_on.set()
    assert (job.result(60)[2]["seed"], waits.result(60)[2]["seed"]) == (0, 2)
    assert one.predict("zwx dog", "pip", 3, 1, 4, api_name="/compare_images")[2]["seed"] == 3


@pytest.mark.parametrize("leaves", ["hangs up", "cancels"])
def test_a_client_that_leaves_stops_its_picture(
    served: tuple[str, Desk, gr.Blocks], leaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, desk, _ = served
    monkeypatch.setattr(desk, "pause", 0.2)  # 100 steps: the client has 20 seconds to be gone
    desk.go_on.clear()
    desk.started.clear()
    desk.ended.clear()
    saved = len(desk.saved)
    values = ["zwx dog", "pip", 0, 50, 4]
    if leaves == "cancels":
        job = client(url).submit(*values, api_name="/compare_images")
        assert desk.started.wait(60)
        job.cancel()
    else:
        call = f"{url}gradio_api/call/compare_images"
        event = httpx.post(call, json={"data": values}).json()["event_id"]
        with httpx.stream("GET", f"{call}/{event}") as stream:
            assert next(stream.iter_lines()) == "event: generating"
    assert desk.ended.wait(60)
    assert len(desk.saved) == saved
    desk.go_on.set()
    assert client(url).predict("zwx dog", "pip", 5, 1, 4, api_name="/compare_images")[2]["seed"] == 5


def test_no_folder_of_pictures_is_left(served: tuple[str, Desk, gr.Blocks]) -> None:
    url, desk, _ = served
    client(url).predict("zwx dog", "pip", 6, 1, 8, api_name="/compare_images")
    assert desk.saved and not any(path.parent.exists() for path in desk.saved)


def test_errors_of_the_package_are_said_and_others_are_not(served: tuple[str, Desk, gr.Blocks]) -> None:
    url, desk, _ = served
    with pytest.raises(AppError, match="No concept has that id"):
        client(url).predict("zwx dog", "nobody", 0, 1, 4, api_name="/compare_images")
    desk.script = [ValueError("secret")]  # type: ignore[list-item]
    with pytest.raises(AppError) as told:
        client(url).predict("my dog", 5, api_name="/search_concepts")
    assert "secret" not in str(told.value)
