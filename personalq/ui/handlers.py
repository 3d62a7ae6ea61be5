"""Events of the conversation and the prompt turned into requests, and decisions turned into widget values.

No scoring and no rewriting happens here. A visitor's data lives in the session it is handed, never in
this object. Errors are said in the chat and shown as `gr.Error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr

from personalq.errors import PersonalQError
from personalq.records import Decision, Question, Request, Selection
from personalq.ui import panels, present
from personalq.ui.desk import Desk
from personalq.ui.present import Message, Session
from personalq.ui.previews import thumbnail

KEEP: Any = gr.skip()
"""Leaves a widget as it is."""
Decide = Callable[[], tuple[Request, Decision]]


class Turn(NamedTuple):
    """What a turn of the conversation changes; the names are the widgets' names in `layout`."""

    box: Any = KEEP
    chat: Any = KEEP
    sess: Any = KEEP
    intro: Any = KEEP
    shelf: Any = KEEP
    cands: Any = KEEP
    studio: Any = KEEP
    prompt: Any = KEEP
    prompt_box: Any = KEEP
    warning: Any = KEEP


class Handlers:
    """The page's events over one desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def shelf(self) -> str:
        """The concepts of the repository, for the empty page."""
        return panels.gallery("In your repository", present.shelf(self.desk.known), self.desk.known, thumbnail)

    # --- status --------------------------------------------------------------------------------

    def on_load(self) -> Iterator[str]:
        """The status line: at once with what is known, then again when the engine is ready."""
        count = len(self.desk.catalog.checkpoints)
        words = [self.desk.base_name or "no base model", f"{count} checkpoint" + ("" if count == 1 else "s")]
        problems = [str(problem) for problem in self.desk.catalog.problems]
        yield panels.status("loading", [*words, "getting ready…"], problems)
        try:
            yield panels.status("ready", [words[0], self.desk.ready(), words[1]], problems)
        except PersonalQError as error:
            yield panels.status("failed", [*words, str(error)], problems)

    # --- the conversation ----------------------------------------------------------------------

    def turn(self, text: str, chat: list[Message], sess: Session) -> Iterator[Turn]:
        """A typed request, or the typed answer to a pending question."""
        yield from self._turn(text, text, chat, sess)

    def on_option(self, chat: list[Message], sess: Session, evt: gr.SelectData) -> Iterator[Turn]:
        """A click on one of the options under the last reply."""
        options: dict[str, str] = sess.get("options", {})
        if evt.value not in options:
            raise gr.Error(present.EXPIRED)
        said = [*chat, present.said(options[evt.value])]
        request = present.request(sess["request"])
        if evt.value == present.REPHRASE:
            reply = present.replied("Your request is back in the box: change it and send it again.")
            yield Turn(box=request.text, chat=[*said, reply], sess={**sess, "options": {}})
        elif evt.value == present.PLAIN:
            yield self._shown(said, sess, request, present.without_concept(request))
        else:
            yield from self._turn(evt.value, options[evt.value], chat, sess)

    def on_card(self, chat: list[Message], sess: Session, evt: gr.SelectData) -> Iterator[Turn]:
        """A click on a candidate: that one is meant, whatever was pending."""
        entries = sess.get("cards", [])
        if not 0 <= evt.index < len(entries):
            raise gr.Error(present.EXPIRED)
        yield from self._choose(chat, sess, present.request(sess["request"]), entries[evt.index]["id"])

    def on_shelf(self, chat: list[Message], sess: Session, evt: gr.SelectData) -> Iterator[Turn]:
        """A click on a concept of the empty page: a request for just that one."""
        shown = present.shelf(self.desk.known)
        if not 0 <= evt.index < len(shown):
            raise gr.Error(present.EXPIRED)
        one = self.desk.known[shown[evt.index]["id"]]
        request = Request(f"a picture of {one.class_noun or one.name}", base=self.desk.base_name)
        yield from self._choose(chat, sess, request, one.id)

    def _turn(self, text: str, shown: str, chat: list[Message], sess: Session) -> Iterator[Turn]:
        """`text` is asked, or answers what is pending; `shown` is how the visitor put it."""
        pending, request = sess.get("pending"), Request(text, base=self.desk.base_name)
        said = [*chat, present.said(shown)]
        yield Turn(box="", chat=said, intro=gr.update(visible=False), shelf=gr.update(visible=False))
        yield from self._settled(
            said, sess, lambda: self.desk.answer(pending, text) if pending else (request, self.desk.ask(request))
        )

    def _choose(self, chat: list[Message], sess: Session, request: Request, id_: str) -> Iterator[Turn]:
        said = [*chat, present.said(f"Use {self.desk.known[id_].name or id_}")]
        yield from self._settled(said, sess, lambda: (request, self.desk.choose(request, id_)))

    def _settled(self, said: list[Message], sess: Session, decide: Decide) -> Iterator[Turn]:
        """What was decided; or what went wrong, with the choices still there."""
        try:
            yield self._shown(said, sess, *decide())
        except PersonalQError as error:
            yield Turn(chat=[*said, present.replied(str(error), sess.get("options"))])
            raise gr.Error(present.safe(str(error))) from error

    def _shown(self, chat: list[Message], sess: Session, request: Request, decision: Decision) -> Turn:
        options = present.options(decision)
        sess = {
            "request": present.plain(request),
            "pending": self.desk.pending(request, decision) if isinstance(decision, Question) else None,
            "options": options,
            "cards": present.cards(decision) or sess.get("cards", []),
            "chosen": present.chosen(decision) if isinstance(decision, Selection) else None,
        }
        return Turn(
            chat=[*chat, present.replied(present.reply(decision), options)],
            sess=sess,
            intro=gr.update(visible=False),
            shelf=gr.update(visible=False),
            cands=self._gallery(sess, decision),
            **self._studio(sess),
        )

    def _gallery(self, sess: Session, decision: Decision) -> Any:
        weak = not isinstance(decision, Selection | Question)
        picked = sess["chosen"]["ids"] if sess["chosen"] else []
        title = "Weak matches" if weak else "Candidates"
        body = panels.gallery(title, sess["cards"], self.desk.known, thumbnail, picked, weak)
        return gr.update(value=body, visible=bool(body))

    def on_clear(self) -> Turn:
        """The bin above the conversation: the empty page again."""
        hidden, shown = gr.update(visible=False), gr.update(visible=True)
        return Turn("", [], {}, intro=shown, shelf=shown, cands=hidden, studio=hidden)

    # --- the prompt ----------------------------------------------------------------------------

    def _studio(self, sess: Session) -> dict[str, Any]:
        picked = sess["chosen"]
        if picked is None:
            return {"studio": gr.update(visible=False), "warning": gr.update(value="", visible=False)}
        prompt, mark, warning = self.on_reset(sess)
        return {"studio": gr.update(visible=True), "prompt": mark, "prompt_box": prompt, "warning": warning}

    def on_edit(self, prompt: str, sess: Session) -> tuple[Any, Any]:
        """An edited prompt: its marked pieces, and a warning when a trigger was removed."""
        picked = sess.get("chosen")
        lost = present.warning(prompt, picked)
        return present.marked(prompt, present.spans(prompt, picked)), gr.update(value=lost, visible=bool(lost))

    def on_reset(self, sess: Session) -> tuple[str, Any, Any]:
        """The prompt as Check-in wrote it."""
        prompt = sess["chosen"]["prompt"] if sess.get("chosen") else ""
        return prompt, *self.on_edit(prompt, sess)


def filled(text: str, chat: list[Message], sess: Session) -> tuple[Any, None, None]:
    """Says at the box itself that it is empty; one value for each input of `turn`."""
    return gr.validate(bool(text.strip()), "Describe a picture first."), None, None
