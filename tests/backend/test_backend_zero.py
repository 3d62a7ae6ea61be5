"""Borrowing a GPU on ZeroGPU: untouched elsewhere, picklable across the fork, and every refusal says what to do."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from personalq.backend.compare import compare
from personalq.backend.engine import Engine
from personalq.backend.zero import LESS, MOST, estimate, leased, on_zero, refusal
from personalq.errors import GenerationError, IncompatibleCheckpointError
from personalq.records import Checkpoint, Frame, Job, Span

HERE = Path(__file__).resolve().parent


def frames(kind: str) -> Iterator[Frame]:
    yield Frame("reference", 1, 2)
    if kind == "ours":
        raise IncompatibleCheckpointError("made for SDXL: choose another")
    yield Frame("reference", 2, 2, Image.new("RGB", (2, 2)))


class LentError(Exception):
    """As Gradio's error: a title and a message."""

    def __init__(self, title: str, message: str) -> None:
        super().__init__(message)
        self.title, self.message = title, message


@pytest.fixture
def zero(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A package `spaces` that pickles whatever crosses, asks for the duration, and can refuse."""
    seen = SimpleNamespace(durations=[], refuse=None, closed=False)

    def gpu(duration: Callable[..., int]) -> Callable[..., Any]:
        def wrap(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def lend(*args: Any) -> Iterator[Any]:
                seen.durations.append(duration(*args))
                if seen.refuse:
                    raise seen.refuse
                try:
                    for item in task(*pickle.loads(pickle.dumps(args))):
                        yield pickle.loads(pickle.dumps(item))
                finally:
                    seen.closed = True

            return lend

        return wrap

    module = ModuleType("spaces")
    module.GPU = gpu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", module)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    return seen


@pytest.mark.parametrize(("value", "on"), [("true", True), ("1", True), ("T", True), ("", False), ("false", False)])
def test_hugging_face_says_whether_it_is_zero_gpu(value: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert on_zero() is on


def test_elsewhere_the_function_comes_back_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setitem(sys.modules, "spaces", None)  # importing it would fail
    assert leased(frames, lambda kind: 1) is frames


def test_on_zero_gpu_frames_cross_and_the_duration_is_asked_for_with_the_arguments(zero: SimpleNamespace) -> None:
    made = list(leased(frames, lambda kind: len(kind))("four"))
    assert [frame.step for frame in made] == [1, 2]
    assert made[1].image is not None and made[1].image.size == (2, 2)
    assert zero.durations == [4]


def test_errors_of_ours_cross_with_their_type_and_message(zero: SimpleNamespace) -> None:
    with pytest.raises(IncompatibleCheckpointError, match="made for SDXL"):
        list(leased(frames, lambda kind: 1)("ours"))


def test_closing_gives_the_gpu_back(zero: SimpleNamespace) -> None:
    lease = leased(frames, lambda kind: 1)("fine")
    next(lease)
    lease.close()
    assert zero.closed


@pytest.mark.parametrize(
    ("title", "message", "says"),
    [
        (
            "ZeroGPU quota exceeded",
            "You have exceeded it (60s requested vs. 12s left). Try again in 1:02:03. ",
            "1:02:03",
        ),
        ("ZeroGPU quota exceeded", "Space app has reached its GPU limit. ", "sign in to Hugging Face"),
        ("ZeroGPU illegal duration", "The requested GPU duration is larger than the maximum", "longer than ZeroGPU"),
        ("ZeroGPU pending credits exceeded", "too many", "your other pictures"),
        ("ZeroGPU queue timeout", "<a href='x'>join</a>", "try again in a minute"),
        ("ZeroGPU client error", "Expired ZeroGPU proxy token", "reload the page"),
        ("ZeroGPU worker error", "GPU task aborted", LESS),
        ("ZeroGPU worker error", "KeyError", "KeyError"),
    ],
)
def test_every_refusal_says_what_to_do(title: str, message: str, says: str, zero: SimpleNamespace) -> None:
    zero.refuse = LentError(title, message)
    with pytest.raises(GenerationError, match="(?i)" + says) as told:
        list(leased(frames, lambda kind: 1)("fine"))
    assert "<" not in str(told.value)
    assert told.value.__cause__ is zero.refuse


def test_what_is_not_known_is_no_secret_either() -> None:
    assert "RuntimeError" in str(refusal(RuntimeError("ZeroGPU API /schedule error: 500")))


def test_more_work_asks_for_more_time_up_to_what_a_visitor_has() -> None:
    two = ("reference", "taq-w8a8")
    asked = [estimate(Job("x", steps=1), two[:1]), estimate(Job("x"), two[:1]), estimate(Job("x"), two)]
    asked += [estimate(Job("x", count=2), two), estimate(Job("x", steps=200, count=4), two)]
    assert asked == sorted(set(asked))
    assert asked[-1] == MOST


def test_a_job_and_every_frame_of_a_comparison_can_be_pickled(engine: Engine) -> None:
    job = Job("photo of zwx dog", spans=(Span(9, 12, "trigger", "c"),), steps=2, checkpoints=())
    with_one = Job("x", checkpoints=((Checkpoint("c", triggers=("zwx",)), 1.0),))
    assert pickle.loads(pickle.dumps((job, with_one))) == (job, with_one)
    for frame in compare(engine, job, ("reference", "taq-w8a8")):
        again = pickle.loads(pickle.dumps(frame))
        assert (again.step, again.memory, again.warning) == (frame.step, frame.memory, frame.warning)
        assert (again.image and again.image.tobytes()) == (frame.image and frame.image.tobytes())


def test_with_the_package_itself_a_fork_works_and_is_refused() -> None:
    pytest.importorskip("spaces", reason="only ZeroGPU Spaces have the package spaces")
    command = [sys.executable, str(HERE / "zero_worker.py")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
        timeout=120,
        env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin", "GRADIO_ANALYTICS_ENABLED": "False"},
    )
    said = next((line for line in done.stdout.splitlines() if line.startswith("{")), done.stderr)
    found = json.loads(said)
    assert found["steps"] == [1, 2]
    assert found["elsewhere"]
    assert found["kept"] == 0  # what the worker changed stayed there
    assert found["told"]["ours"] == "GenerationError: choose a smaller size"
    assert "KeyError" in found["told"]["theirs"] and "secret detail" not in found["told"]["theirs"]
    assert "taken back" in found["told"]["killed"]
    assert "sign in to Hugging Face" in found["told"]["refused"]
    assert ["/schedule", "7"] in found["seen"] and ["/allow", ""] in found["seen"]
