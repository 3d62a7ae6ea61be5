"""Events of history, own concepts and settings. What is kept is the browser's; what is added lasts a session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from personalq.catalog.own import added
from personalq.catalog.own_hub import from_hub
from personalq.errors import PersonalQError, RequestError
from personalq.records import Checkpoint, Recalled
from personalq.ui import pictures, present
from personalq.ui.controls import (
    GUIDANCE,
    LAST_SEED,
    MOST_GUIDANCE,
    MOST_SEED,
    MOST_STEPS,
    MOST_WEIGHT,
    PRECISIONS,
    ROWS,
    WEIGHTS,
    Controls,
    kept_rows,
    shown,
)
from personalq.ui.desk import Desk
from personalq.ui.events.conversation import KEEP, Conversation, Turn, failure, slid
from personalq.ui.keepsakes import Kept
from personalq.ui.limits import Limits, visitor_of
from personalq.ui.present import Message, Session
from personalq.ui.runs import Runs
from personalq.ui.visitors import Visitors
from personalq.ui.widgets.shelves import THEMES

FIRST = Controls()
MOST_OWN = 20
TOO_MANY = f"Up to {MOST_OWN} concepts of your own are kept: remove some first."


class Restored(NamedTuple):
    """Everything a picture's settings bring back; the names are the widgets' names."""

    chat: Any = KEEP
    sess: Any = KEEP
    intro: Any = KEEP
    shelf: Any = KEEP
    studio: Any = KEEP
    prompt: Any = KEEP
    prompt_box: Any = KEEP
    warning: Any = KEEP
    picked: Any = KEEP
    weight_a: Any = KEEP
    weight_b: Any = KEEP
    negative: Any = KEEP
    seed: Any = KEEP
    locked: Any = KEEP
    steps: Any = KEEP
    guidance: Any = KEEP
    size: Any = KEEP
    batch: Any = KEEP
    precision: Any = KEEP
    protect: Any = KEEP
    tabs: Any = KEEP
    kept: Any = KEEP
    history: Any = KEEP


class Emptied(NamedTuple):
    """What Clear my data changes: fields and settings as they first are; the names are the widgets' names."""

    kept: Any
    sess: Any
    history: Any
    tally: Any
    shelf: Any
    cleared: Any
    own_list: Any = ""
    box: Any = ""
    chat: Any = None
    intro: Any = gr.update(visible=True)
    cands: Any = gr.update(visible=False)
    studio: Any = gr.update(visible=False)
    prompt_box: Any = ""
    negative: Any = FIRST.negative
    steps: Any = FIRST.steps
    guidance: Any = FIRST.guidance
    size: Any = FIRST.size
    batch: Any = FIRST.batch
    precision: Any = FIRST.precision
    protect: Any = FIRST.protect
    blind: Any = FIRST.blind
    previews: Any = FIRST.previews
    theme: Any = THEMES[0]
    own_said: Any = ""
    own_file: Any = None
    own_repo: Any = ""
    own_trigger: Any = ""
    own_noun: Any = ""
    own_base: Any = ""
    own_license: Any = ""
    own_consent: Any = False


FORM = ("own_file", "own_repo", "own_trigger", "own_noun", "own_base", "own_license", "own_consent")
"""The widgets that describe a concept of one's own."""


class Shelves:
    """The other screens, over one desk."""

    def __init__(
        self, desk: Desk, limits: Limits, visitors: Visitors, conversation: Conversation, runs: Sequence[Runs]
    ) -> None:
        self.desk, self.limits, self.visitors, self.conversation = desk, limits, visitors, conversation
        self.runs = runs

    # --- history and recall --------------------------------------------------------------------

    def on_history(self, chat: list[Message], sess: Session, kept: Any, evt: gr.SelectData) -> Restored:
        """A click on an entry: use it again, love it, or drop it."""
        mine = Kept.of(kept)
        if not 0 <= evt.index < len(mine.history):
            raise failure(present.EXPIRED)
        if evt.value == "use":
            entry = mine.history[evt.index]
            return self._recalled(chat, sess, {**entry["data"], "precision": entry["precision"]}, "your history")
        if evt.value not in ("love", "drop"):
            raise failure(present.EXPIRED)
        changed = mine.loved(evt.index) if evt.value == "love" else mine.without(evt.index)
        if changed is mine:
            raise failure("There are 30 favourites already: remove one first.")
        return Restored(kept=changed.plain(), history=pictures.history(changed.history))

    def on_drop(self, chat: list[Message], sess: Session, path: str | None, browser: gr.Request) -> Restored:
        """A PNG was dropped: what it says about itself, taken up."""
        if path is None:
            return Restored()
        try:
            self.limits.take(visitor_of(browser), "upload")
            return self._recalled(chat, sess, self.desk.read(Path(path)), "the picture")
        except PersonalQError as error:
            raise failure(str(error)) from error

    def _recalled(self, chat: list[Message], sess: Session, data: dict[str, Any], source: str) -> Restored:
        try:
            back = self.desk.recalled(data, present.own(sess))
            size = shown(back.job, self.desk.size())
        except PersonalQError as error:
            raise failure(str(error)) from error
        job, options = back.job, {present.ADD: "Add a concept"} if back.missing else {}
        picked = present.picked(job)
        sess = {**present.with_chosen(sess, picked), "pending": None, "options": options, "cards": []}
        sess.setdefault("request", {"text": job.prompt, "base": self.desk.base_name, "history": [], "as_of": None})
        studio = self.conversation.studio(sess)
        for name, (_, weight) in zip(("weight_a", "weight_b"), job.checkpoints, strict=False):
            studio[name] = {**studio[name], **slid(weight, WEIGHTS, (-MOST_WEIGHT, MOST_WEIGHT))}
        hidden = gr.update(visible=False)
        return Restored(
            chat=[*chat, present.replied(_words(back, source), options)],
            sess=sess,
            intro=hidden,
            shelf=hidden,
            negative=job.negative,
            seed=gr.update(value=job.seed, maximum=max(LAST_SEED, job.seed)) if _is_seed(job.seed) else KEEP,
            locked=True,
            steps=min(job.steps, MOST_STEPS),
            guidance=gr.update(**slid(job.guidance, GUIDANCE, (0, MOST_GUIDANCE))),
            size=size,
            batch=1,
            precision=back.precision if back.precision in PRECISIONS else KEEP,
            protect=kept_rows(job.protect),
            tabs=gr.Tabs(selected="draw"),
            **studio,
        )

    # --- own concepts --------------------------------------------------------------------------

    def on_add(
        self,
        browser: gr.Request,
        sess: Session,
        path: str | None,
        repo: str,
        trigger: str,
        noun: str,
        base: str,
        license_: str,
        consent: bool,
    ) -> Iterator[tuple[Any, ...]]:
        """A concept of one's own, from a file or the Hub: what was said, list, shelf and session."""
        yield "Reading…", KEEP, KEEP, KEEP
        own = present.own(sess)
        try:
            if not consent:
                raise RequestError("Tick the box to say that you may use these weights.")
            if not path and not repo.strip():
                raise RequestError("Choose a .safetensors file, or name a Hub repository.")
            visitor = visitor_of(browser)
            self.limits.take(visitor, "upload")
            if len(own) >= MOST_OWN:
                raise RequestError(TOO_MANY)
            new = self._new(visitor, path, repo, trigger, noun, base, license_)
            if len(own) + len(new) > MOST_OWN:
                raise RequestError(TOO_MANY)
        except PersonalQError as error:
            yield present.safe(str(error)), KEEP, KEEP, KEEP
            raise failure(str(error)) from error
        sess = {**present.with_own(sess, (*own, *new)), "visitor": visitor}
        names = ", ".join(one.name or one.id for one in new)
        said = f"Added: {present.safe(names)}. Ask for it, or press Use."
        yield said, *self._own(sess)

    def on_added(self) -> list[Any]:
        """The form, ready for the next one; what was refused stays in it."""
        return [Emptied._field_defaults[name] for name in FORM]

    def _new(
        self, visitor: str, path: str | None, repo: str, trigger: str, noun: str, base: str, license_: str
    ) -> tuple[Checkpoint, ...]:
        if path:
            folder = self.visitors.folder(visitor) / "own"
            folder.mkdir(mode=0o700, exist_ok=True)
            return (added(Path(path), folder, trigger=trigger, base=base, class_noun=noun, license=license_),)
        return from_hub(repo.strip(), self.visitors.folder(visitor)).checkpoints

    def _own(self, sess: Session) -> tuple[str, Any, Session]:
        return pictures.own(present.own(sess)), gr.update(value=self.conversation.shelf(sess)), sess

    def on_own(self, sess: Session, evt: gr.SelectData) -> tuple[Any, ...]:
        """Remove on an own concept: list, shelf and session; prompt and candidates go if it was the one chosen."""
        own = present.own(sess)
        if evt.value != "drop" or not 0 <= evt.index < len(own):
            return KEEP, KEEP, KEEP, KEEP, KEEP
        gone = own[evt.index]
        self.desk.forget((gone,))
        for file in (*gone.files, gone.preview):
            if file and not file.startswith("hub:"):
                Path(file).unlink(missing_ok=True)
        left = present.with_own(sess, (one for one in own if one.id != gone.id))
        if gone.id not in (left.get("chosen") or {}).get("ids", []):
            return *self._own(left), KEEP, KEEP
        hidden = gr.update(visible=False)
        return *self._own(present.with_chosen(left, None)), hidden, hidden

    def on_use(self, chat: list[Message], sess: Session, evt: gr.SelectData) -> Iterator[Turn]:
        """Use on an own concept: a request for just that one, on the first screen."""
        own = present.own(sess)
        if evt.value != "use" or not 0 <= evt.index < len(own):
            yield Turn()
            return
        yield Turn(tabs=gr.Tabs(selected="draw"))
        yield from self.conversation.on_concept(chat, sess, own[evt.index].id)

    # --- settings ------------------------------------------------------------------------------

    def on_load(self, kept: Any, browser: gr.Request) -> tuple[Any, ...]:
        """A fresh session, and what the browser kept on the page again: history, votes and settings."""
        mine = Kept.of(kept)
        settings = mine.settings
        protect = settings.get("protect")
        theme = settings.get("theme")
        precision = settings.get("precision")
        return (
            {"visitor": visitor_of(browser)},
            pictures.history(mine.history),
            pictures.tally(mine.tally),
            protect if protect in ROWS else KEEP,
            bool(settings.get("blind", False)),
            bool(settings.get("previews", True)),
            theme if theme in THEMES else THEMES[0],
            precision if precision in PRECISIONS else KEEP,
        )

    def on_kept(self, kept: Any) -> tuple[str, str]:
        """History and votes as they are now."""
        mine = Kept.of(kept)
        return pictures.history(mine.history), pictures.tally(mine.tally)

    def on_setting(self, kept: Any, protect: str, blind: bool, previews: bool, theme: str, precision: str) -> Any:
        """The settings, for the browser to keep."""
        return (
            Kept.of(kept)
            .with_settings(protect=protect, blind=blind, previews=previews, theme=theme, precision=precision)
            .plain()
        )

    def on_clear(self, sess: Session, browser: gr.Request) -> Emptied:
        """Clear my data: the page as it was first opened; the files of this visitor go too."""
        visitor = visitor_of(browser)
        for runs in self.runs:
            runs.wait(visitor)  # what is stopped may still write a file
        self.leave({**sess, "visitor": visitor})
        return Emptied(
            kept=Kept().plain(),
            sess={"visitor": visitor},
            history=pictures.history(()),
            tally=pictures.tally({}),
            shelf=gr.update(value=self.conversation.shelf(), visible=True),
            cleared="Gone: your history, favourites, votes, settings, concepts and pictures. Copies of pictures that "
            "this page was sent leave the server within 70 minutes.",
        )

    def leave(self, sess: Session) -> None:
        """A visitor has left: files and checkpoints of their own go."""
        own = present.own(sess)
        if own:
            self.desk.forget(own)
        if "visitor" in sess:
            self.visitors.leave(sess["visitor"])


def _words(back: Recalled, source: str) -> str:
    lines = [f"Taken up from {source}: seed {back.job.seed}, {back.job.steps} steps."]
    if back.missing:
        lines.append(f"Not here: {', '.join(back.missing)}. Add it, and recall the picture again.")
    if not _is_seed(back.job.seed):
        lines.append("That seed cannot be set here: the picture will differ.")
    if back.job.steps > MOST_STEPS:
        lines.append(f"At most {MOST_STEPS} steps are made here: the picture will differ.")
    return "\n".join([*lines, *back.remarks])


def _is_seed(seed: int) -> bool:
    return 0 <= seed <= MOST_SEED
