"""The six functions that programs and agents call, over HTTP and MCP. They keep nothing between calls, know no widget.

Annotations are evaluated here (no `from __future__ import annotations`): Gradio reads the return type as it stands, and
would take a postponed tuple for one value. Names and docstrings become those of the MCP tools.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import FileData
from gradio.context import Context
from gradio.utils import get_upload_folder

from personalq.errors import GenerationError, LimitError, PersonalQError, PictureError, RequestError
from personalq.records import Checkpoint, Frame, Job, Precision, Question, Request
from personalq.ui import present
from personalq.ui.controls import MOST_SEED, MOST_STEPS, REFERENCE
from personalq.ui.desk import Desk
from personalq.ui.limits import Limits, visitor_of, waiting
from personalq.ui.payloads import candidate, decided, marked, ranked, reading, repeatable
from personalq.ui.runs import Pace

GPU = "gpu"
LONGEST = 2000
"""Code points of a request, an answer, a prompt or an id."""
MOST_FOUND = 20
LARGEST = 20 * 2**20
"""Bytes of a picture that is read."""
PRECISIONS: dict[int, Precision] = {8: "taq-w8a8", 4: "taq-w4a8"}
_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:,;()'\"]+/)+")


def endpoints(desk: Desk, limits: Limits) -> None:
    """Registers the functions with the page that is being built; call it inside its `gr.Blocks`."""
    api = Api(desk, limits)
    quick: list[Callable[..., Any]] = [api.search_concepts, api.clarify, api.rewrite_prompt]
    for fn in (*quick, api.read_recipe, api.vram_report):
        gr.api(fn, api_name=fn.__name__, concurrency_id="cpu", concurrency_limit=8)
    made = gr.api(api.compare_images, api_name="compare_images", concurrency_id=GPU, concurrency_limit=1)
    blocks = Context.root_block

    def may_wait(prompt: Any, concept_id: Any, seed: Any, steps: Any, bits: Any, request: gr.Request) -> list[Any]:
        try:
            limits.check_waiting(visitor_of(request), waiting(blocks, GPU))
        except LimitError as error:
            return [gr.validate(False, str(error)), *[None] * 4]
        return [None] * 5

    blocks.fns[made["id"]].validator = may_wait  # `gr.api` takes none, and only a validator runs before the queue


class Api:
    """The functions over one desk."""

    def __init__(self, desk: Desk, limits: Limits) -> None:
        self.desk, self.limits = desk, limits

    def search_concepts(self, query: str, limit: int = 5, request: gr.Request = None) -> list[dict[str, Any]]:
        """Find personalised concepts (subjects, characters, styles) that fit a description in plain words, best first.

        Args:
            query: What the picture should show, for example "my dog on the beach".
            limit: How many concepts to return at most, 1 to 20.

        Returns:
            For each concept its id, name, triggers, base model, license, probability from 0 to 1 and why it matched.
        """
        with self._turn(request):
            count = _whole(limit, "limit", 1, MOST_FOUND)
            decision = self.desk.ask(self._request(query))
            return [candidate(one) for one in ranked(decision)[:count]]

    def clarify(self, query: str, answer: str, request: gr.Request = None) -> dict[str, Any]:
        """Decide which concept a request means. If several fit, one question comes back; call again with its answer.

        Args:
            query: What the picture should show, the same in both calls.
            answer: Empty to ask first; then the id, number or label of an option, or the answer in your own words.

        Returns:
            A "kind": "selection" (concepts and the prompt to use), "question" (text, options) or "no_match" (nearest).
        """
        with self._turn(request):
            asked = self._request(query)
            said = _text(answer, "answer", empty=True)
            decision = self.desk.ask(asked)
            if isinstance(decision, Question) and said:
                _, decision = self.desk.answer(self.desk.pending(asked, decision), said)
            return decided(decision)

    def rewrite_prompt(self, query: str, concept_id: str, request: gr.Request = None) -> dict[str, Any]:
        """Write the prompt for a chosen concept: the request with the concept's exact trigger words in it.

        Args:
            query: What the picture should show.
            concept_id: The id of a concept, as search_concepts or clarify returned it.

        Returns:
            The prompt, its spans (start and end in characters, end exclusive, and role), the trigger and warnings.
        """
        with self._turn(request):
            chosen = self.desk.choose(self._request(query), self._concept(concept_id).id)
            return {
                "concept_id": chosen.checkpoints[0].id,
                "prompt": chosen.prompt,
                "spans": marked(chosen.prompt, chosen.spans),
                "trigger": next(iter(chosen.checkpoints[0].triggers), None),
                "warnings": list(chosen.warnings),
            }

    def compare_images(  # type: ignore[misc]  # a generator, which Gradio stops when the client leaves
        self,
        prompt: str,
        concept_id: str,
        seed: int = 0,
        steps: int = 28,
        bits: int = 4,
        request: gr.Request = None,
    ) -> tuple[FileData, FileData, dict[str, Any]]:
        """Draw one prompt twice from the same noise: in full precision and quantised, with the memory each took.

        Args:
            prompt: The prompt with the concept's trigger words in it, as rewrite_prompt returns it.
            concept_id: The id of the concept to load.
            seed: Seed of the noise, 0 to 9007199254740991; the same seed makes the same pictures. Default 0.
            steps: Denoising steps, 1 to 50.
            bits: Bits of the quantised weights, 4 or 8; the trigger's rows stay in full precision (TAQ).

        Returns:
            The full-precision PNG, the quantised PNG (both say how they were made), measured memory, and warnings.
        """
        with _told():
            visitor = visitor_of(request)
            job, warnings = self._job(prompt, concept_id, seed, steps)
            precision = PRECISIONS[_whole(bits, "bits", 4, 8, among=tuple(PRECISIONS))]
            yield (
                None,
                None,
                {"picture": REFERENCE, "step": 0, "steps": job.steps},
            )  # from here on Gradio can close this
            self.limits.take(visitor, "picture", 2)
            with self.limits.slot(visitor):
                yield from self._compared(job, precision, warnings)

    def read_recipe(self, image: FileData, request: gr.Request = None) -> dict[str, Any]:
        """Read from a PNG how it was made (prompt, concept, seed, steps, quantiser) and what can be repeated here.

        Args:
            image: A PNG made by PersonalQ, or by another program that writes A1111 parameters; 20 MB at most.

        Returns:
            "recipe" as the file says it, "here" the job as this server can repeat it, "missing" concepts and "remarks".
        """
        with _told():
            self.limits.take(visitor_of(request), "upload")
            data, recalled = self.desk.recall(_uploaded(image))
            return {"recipe": data, **repeatable(recalled, self._size())}

    def vram_report(self, request: gr.Request = None) -> dict[str, Any]:
        """Report what is in memory now and what it takes, measured; on a machine without a GPU it says so.

        Returns:
            What is resident, bytes of weights, GPU and process memory; null where something was not measured.
        """
        with self._turn(request):
            return self.desk.memory()

    # --- what they share -----------------------------------------------------------------------

    @contextmanager
    def _turn(self, request: gr.Request) -> Iterator[None]:
        with _told():
            self.limits.take(visitor_of(request), "turn")
            yield

    def _request(self, query: Any) -> Request:
        return Request(_text(query, "query"), base=self.desk.base_name)

    def _concept(self, id_: Any) -> Checkpoint:
        """Raises RequestError for an id that no concept has."""
        concept = self.desk.known.get(_text(id_, "concept_id"))
        if concept is None:
            raise RequestError("No concept has that id: search_concepts and clarify return the ids there are.")
        return concept

    def _size(self) -> tuple[int, int] | None:
        """Width and height of the base's own pictures, once that is known."""
        with suppress(PersonalQError):
            return None if self.desk.loading() else self.desk.size()
        return None

    def _job(self, prompt: Any, concept_id: Any, seed: Any, steps: Any) -> tuple[Job, list[str]]:
        """The job, and what the caller should know about it. Raises RequestError."""
        text, concept = _text(prompt, "prompt"), self._concept(concept_id)
        role = "style" if concept.role == "style" else "trigger"
        marks = [{"text": trigger, "role": role, "id": concept.id} for trigger in concept.triggers]
        spans = present.spans(text, {"prompt": None, "marks": marks})
        job = Job(
            text,
            spans=spans,
            checkpoints=((concept, concept.weight),),
            seed=_whole(seed, "seed", 0, MOST_SEED),
            steps=_whole(steps, "steps", 1, MOST_STEPS),
        )
        if spans or not concept.triggers:
            return job, []
        lost = f"The prompt does not contain {concept.triggers[0]!r}, the trigger of {concept.name or concept.id}"
        return job, [f"{lost}: the concept may not show. rewrite_prompt puts it in."]

    def _compared(self, job: Job, precision: Precision, warnings: list[str]) -> Iterator[tuple[Any, Any, Any]]:
        """Steps, ten a second at most, then both pictures. The files are gone when the caller asks for more."""
        last: dict[Precision, Frame] = {}
        pace = Pace()
        with closing(self.desk.compare(job, (REFERENCE, precision))) as frames:
            for frame in frames:
                done = frame.step == frame.total
                if done and frame.image is not None:
                    last[frame.variant] = frame
                if done or pace.is_due():
                    yield None, None, {"picture": frame.variant, "step": frame.step, "steps": frame.total}
                    pace.begin()
        if len(last) != 2:
            raise GenerationError("The pictures were not finished: try again.")
        with tempfile.TemporaryDirectory(prefix="personalq-api-") as folder:
            files = [self._saved(Path(folder), job, name, last[name]) for name in (REFERENCE, precision)]
            told = [last[name].warning for name in (REFERENCE, precision)]
            facts = {
                "full_precision": reading(last[REFERENCE]),
                "quantised": reading(last[precision]),
                "precision": precision,
                "protected": last[precision].protected,
                "seed": job.seed,
                "steps": job.steps,
                "concept_id": job.checkpoints[0][0].id,
                "spans": marked(job.prompt, job.spans),
                "warnings": [*warnings, *dict.fromkeys(one for one in told if one)],
            }
            yield (*files, facts)  # Gradio copies the files to its cache, which `delete_cache` empties

    def _saved(self, folder: Path, job: Job, precision: Precision, frame: Frame) -> FileData:
        assert frame.image is not None
        path = folder / f"personalq-{job.seed}-{precision}.png"
        self.desk.save(frame.image, path, job, precision, 0, frame)
        return FileData(path=str(path), orig_name=path.name, mime_type="image/png", size=path.stat().st_size)


# --- what comes in -----------------------------------------------------------------------------


@contextmanager
def _told() -> Iterator[None]:
    """Errors that this package raises on purpose, said to the caller without the server's folders."""
    try:
        yield
    except PersonalQError as error:
        raise gr.Error(_FOLDERS.sub("", str(error)), duration=None, print_exception=False) from error


def _text(value: Any, name: str, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be text, not {type(value).__name__}.")
    if len(value) > LONGEST:
        raise RequestError(f"{name} has {len(value)} characters: shorten it to {LONGEST} at most.")
    if not value.strip() and not empty:
        raise RequestError(f"{name} is empty.")
    return value.strip()


def _whole(value: Any, name: str, least: int, most: int, among: Sequence[int] = ()) -> int:
    right = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not right or not least <= value <= most or (among and value not in among):
        wanted = " or ".join(str(one) for one in sorted(among)) if among else f"a whole number from {least} to {most}"
        raise RequestError(f"{name} must be {wanted}.")
    return int(value)


def _uploaded(image: Any) -> Path:
    """The file of an upload. Gradio checks a path only when it is marked as a file, and the caller sends the mark.

    Raises PictureError for a path that was not uploaded, or a file that is too large.
    """
    path = image.get("path") if isinstance(image, Mapping) else None
    try:
        file = Path(path if isinstance(path, str) else "").resolve(strict=True)
        if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
            raise PictureError("That file was not uploaded: upload a PNG and pass it on.")
        if file.stat().st_size > LARGEST:
            raise PictureError(f"The file is larger than {LARGEST // 2**20} MB: send a smaller one.")
    except (OSError, ValueError) as error:
        raise PictureError("That file was not uploaded: upload a PNG and pass it on.") from error
    return file
