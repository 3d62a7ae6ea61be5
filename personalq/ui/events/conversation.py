"""Events of the conversation and the prompt turned into requests, and decisions turned into widget values.

No scoring and no rewriting happens here. A visitor's data lives in the session it is handed, never in
this object. Errors are said in the chat and shown as `gr.Error`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gradio as gr

from personalq.errors import PersonalQError
from personalq.records import Checkpoint, Decision, Question, Request, Selection
from personalq.ui import panels, present
from personalq.ui.controls import MOST_WEIGHT, WEIGHTS, smaller
from personalq.ui.desk import Desk
from personalq.ui.limits import Limits, visitor_of
from personalq.ui.present import Message, Session
from personalq.ui.previews import thumbnail

KEEP: Any = gr.skip()
"""Leaves a widget as it is."""
Decide = Callable[[], tuple[Request, Decision]]
LASTING = ("visitor", "own")
"""What of a session outlasts a conversation."""
LOOK_AGAIN = 0.25
"""Seconds between two looks at what is being made ready."""


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
    picked: Any = KEEP
    weight_a: Any = KEEP
    weight_b: Any = KEEP
    size: Any = KEEP
    precision: Any = KEEP
    again: Any = KEEP
    tabs: Any = KEEP


class Conversation:
    """The events of the conversation over one desk."""

    def __init__(self, desk: Desk, limits: Limits) -> None:
        self.desk, self.limits = desk, limits

    def shelf(self, sess: Session | None = None) -> str:
        """The concepts of the repository, with the visitor's own, for the empty page."""
        known = present.known(self.desk.known, sess or {})
        note = present.hidden(self.desk.hidden)
        return panels.gallery("In your repository", present.shelf(known), known, thumbnail, note=note)

    # --- status --------------------------------------------------------------------------------

    def on_load(self) -> Iterator[str]:
        """The status line: at once with what is known, then again when the engine is ready."""
        count = len(self.desk.catalog.checkpoints)
        words = [self.desk.base_name or "no base model", f"{count} checkpoint" + ("" if count == 1 else "s")]
        problems = [str(problem) for problem in self.desk.catalog.problems]
        yield panels.status("loading", [*words, "getting ready…"], problems)
        while doing := self.desk.loading():
            yield panels.status("loading", [*words, f"{doing}…"], problems)
            time.sleep(LOOK_AGAIN)
        try:
            yield panels.status("ready", [words[0], self.desk.ready(), words[1]], problems)
        except PersonalQError as error:
            yield panels.status("failed", [*words, str(error)], problems)

    # --- the conversation ----------------------------------------------------------------------

    def turn(self, text: str, chat: list[Message], sess: Session, size: str, browser: gr.Request) -> Iterator[Turn]:
        """A typed request, the typed answer to a pending question, or the number of an option."""
        options = chat[-1].get("options") or () if chat and not sess.get("pending") else ()
        number = int(text) if re.fullmatch(r"\s*[1-9]\s*", text) else 0
        if 0 < number <= len(options):
            yield Turn(box="")
            yield from self._option(options[number - 1]["value"], chat, sess, size, browser)
        else:
            yield from self._turn(text, text, chat, sess, browser)

    def on_option(
        self, chat: list[Message], sess: Session, size: str, evt: gr.SelectData, browser: gr.Request
    ) -> Iterator[Turn]:
        """A click on one of the options under the last reply; `size` is what the size widget shows."""
        yield from self._option(evt.value, chat, sess, size, browser)

    def _option(self, value: str, chat: list[Message], sess: Session, size: str, browser: gr.Request) -> Iterator[Turn]:
        options: dict[str, str] = {**present.WAYS_OUT, **sess.get("options", {})}
        if value not in options:
            raise failure(present.EXPIRED)
        said, left = [*chat, present.said(options[value])], {**sess, "options": {}}
        if value == present.AGAIN:
            yield Turn(chat=said, sess=left, again=time.time())
        elif value == present.SMALLER:
            yield self._smaller(said, left, size)
        elif value == present.LOWER:
            yield Turn(chat=[*said, present.replied("At 4 bits: generate again.")], sess=left, precision="taq-w4a8")
        elif value == present.ADD:
            reply = present.replied("Add it under My concepts, then ask again.")
            yield Turn(chat=[*said, reply], sess=left, tabs=gr.Tabs(selected="concepts"))
        elif value == present.REPHRASE:
            reply = present.replied("Your request is back in the box: change it and send it again.")
            yield Turn(box=present.request(sess["request"]).text, chat=[*said, reply], sess=left)
        elif value == present.PLAIN:
            request = present.request(sess["request"])
            yield self._shown(said, sess, request, present.without_concept(request))
        else:
            yield from self._turn(value, options[value], chat, sess, browser)

    def _smaller(self, said: list[Message], left: Session, size: str) -> Turn:
        try:
            less = smaller(size, self.desk.size())
        except PersonalQError as error:
            return Turn(chat=[*said, present.replied(str(error))], sess=left)
        words = (
            "It cannot be smaller: use a lower precision."
            if less == size
            else f"The size is now {less}: generate again."
        )
        return Turn(chat=[*said, present.replied(words)], sess=left, size=less)

    def on_card(self, chat: list[Message], sess: Session, evt: gr.SelectData) -> Iterator[Turn]:
        """A click on a candidate: that one is meant, whatever was pending."""
        entries = sess.get("cards", [])
        if not 0 <= evt.index < len(entries):
            raise failure(present.EXPIRED)
        yield from self._choose(chat, sess, present.request(sess["request"]), entries[evt.index]["id"])

    def on_shelf(self, chat: list[Message], sess: Session, evt: gr.SelectData) -> Iterator[Turn]:
        """A click on a concept of the empty page: a request for just that one."""
        shown = present.shelf(present.known(self.desk.known, sess))
        if not 0 <= evt.index < len(shown):
            raise failure(present.EXPIRED)
        yield from self.on_concept(chat, sess, shown[evt.index]["id"])

    def on_concept(self, chat: list[Message], sess: Session, id_: str) -> Iterator[Turn]:
        """A request for just this checkpoint."""
        one = self._known(sess, id_)
        request = Request(f"a picture of {one.class_noun or one.name}", base=self.desk.base_name)
        yield from self._choose(chat, sess, request, one.id)

    def _turn(self, text: str, shown: str, chat: list[Message], sess: Session, browser: gr.Request) -> Iterator[Turn]:
        """`text` is asked, or answers what is pending; `shown` is how the visitor put it."""
        pending, request = sess.get("pending"), Request(text, base=self.desk.base_name)
        said, own = [*chat, present.said(shown)], present.own(sess)

        def decide() -> tuple[Request, Decision]:
            self.limits.take(visitor_of(browser), "turn")
            return self.desk.answer(pending, text, own) if pending else (request, self.desk.ask(request, own))

        yield Turn(box="", chat=said, intro=gr.update(visible=False), shelf=gr.update(visible=False))
        back = {} if chat else {"intro": gr.update(visible=True), "shelf": gr.update(visible=True)}
        yield from self._settled(said, sess, decide, back | ({"box": text} if text == shown else {}))

    def _choose(self, chat: list[Message], sess: Session, request: Request, id_: str) -> Iterator[Turn]:
        own, name = present.own(sess), self._known(sess, id_).name
        said = [*chat, present.said(f"Use {name or id_}")]
        yield from self._settled(said, sess, lambda: (request, self.desk.choose(request, id_, own)))

    def _known(self, sess: Session, id_: str) -> Checkpoint:
        """A checkpoint that is still here; own ones may have been removed since they were listed."""
        if id_ not in (known := present.known(self.desk.known, sess)):
            raise failure(present.EXPIRED)
        return known[id_]

    def _settled(
        self, said: list[Message], sess: Session, decide: Decide, back: Mapping[str, Any] | None = None
    ) -> Iterator[Turn]:
        """What was decided; or what went wrong, with the choices still there and the page as it was before (`back`).

        Meanwhile, what is being done.
        """
        while doing := self.desk.waiting_for():
            yield Turn(chat=[*said, present.replied(f"{doing}…")])
            time.sleep(LOOK_AGAIN)
        count = len(self.desk.known) + len(sess.get("own", []))
        yield Turn(chat=[*said, present.replied(f"Looking through {count} checkpoints…")])
        try:
            yield self._shown(said, sess, *decide())
        except PersonalQError as error:
            yield Turn(chat=[*said, present.replied(str(error), sess.get("options"))], **back or {})
            raise failure(str(error)) from error
        except Exception:
            yield Turn(chat=[*said, present.replied("That failed: send it again.", sess.get("options"))], **back or {})
            raise

    def _shown(self, chat: list[Message], sess: Session, request: Request, decision: Decision) -> Turn:
        options = present.options(decision)
        picked = present.chosen(decision) if isinstance(decision, Selection) else None
        sess = {
            **present.with_chosen(sess, picked),
            "request": present.plain(request),
            "pending": self.desk.pending(request, decision) if isinstance(decision, Question) else None,
            "options": options,
            "cards": present.cards(decision) or sess.get("cards", []),
        }
        return Turn(
            chat=[*chat, present.replied(present.reply(decision), options)],
            sess=sess,
            intro=gr.update(visible=False),
            shelf=gr.update(visible=False),
            cands=self._gallery(sess, decision),
            **self.studio(sess),
        )

    def _gallery(self, sess: Session, decision: Decision) -> Any:
        weak = not isinstance(decision, Selection | Question)
        picked = sess["chosen"]["ids"] if sess["chosen"] else []
        title = "Weak matches" if weak else "Candidates"
        known, note = present.known(self.desk.known, sess), present.hidden(self.desk.hidden)
        body = panels.gallery(title, sess["cards"], known, thumbnail, picked, weak, note)
        return gr.update(value=body, visible=bool(body))

    def on_clear(self, sess: Session) -> Turn:
        """The bin above the conversation: the empty page again; own concepts stay."""
        hidden, shown = gr.update(visible=False), gr.update(visible=True)
        left = {name: sess[name] for name in LASTING if name in sess}
        shelf = gr.update(value=self.shelf(left), visible=True)
        return Turn("", [], left, intro=shown, shelf=shelf, cands=hidden, studio=hidden)

    # --- the prompt ----------------------------------------------------------------------------

    def studio(self, sess: Session) -> dict[str, Any]:
        """What the prompt and its controls show for the concept that is chosen; hidden while none is."""
        picked = sess["chosen"]
        if picked is None:
            return {"studio": gr.update(visible=False), "warning": gr.update(value="", visible=False)}
        prompt, mark, warning = self.on_reset(sess)
        weights = [*self._weights(sess, picked["ids"]), gr.update(visible=False), gr.update(visible=False)]
        return {
            "studio": gr.update(visible=True),
            "prompt": mark,
            "prompt_box": prompt,
            "warning": warning,
            "picked": present.token(picked),
            "weight_a": weights[0],
            "weight_b": weights[1],
        }

    def _weights(self, sess: Session, ids: list[str]) -> list[Any]:
        """A slider for each LoRA, at the weight its author recommends."""
        known = present.known(self.desk.known, sess)
        return [
            gr.update(
                **slid(known[id_].weight, WEIGHTS, (-MOST_WEIGHT, MOST_WEIGHT)),
                label=f"Weight of {known[id_].name or id_}",
                visible=known[id_].kind == "lora",
            )
            for id_ in ids
        ]

    def on_edit(self, prompt: str, sess: Session) -> tuple[Any, Any]:
        """An edited prompt: its marked pieces, and a warning when a trigger was removed."""
        picked = sess.get("chosen")
        lost = present.warning(prompt, picked)
        return present.marked(prompt, present.spans(prompt, picked)), gr.update(value=lost, visible=bool(lost))

    def on_reset(self, sess: Session) -> tuple[str, Any, Any]:
        """The prompt as Check-in wrote it."""
        prompt = sess["chosen"]["prompt"] if sess.get("chosen") else ""
        return prompt, *self.on_edit(prompt, sess)


def slid(value: float, usual: tuple[float, float], limits: tuple[float, float]) -> dict[str, float]:
    """A slider at `value`, its range wide enough for it: Gradio refuses whatever lies outside."""
    value = max(limits[0], min(limits[1], value))
    return {"value": value, "minimum": min(usual[0], value), "maximum": max(usual[1], value)}


def filled(text: str, chat: list[Message], sess: Session, size: str) -> tuple[Any, None, None, None]:
    """Says at the box itself that it is empty; one value for each input of `turn`."""
    return gr.validate(bool(text.strip()), "Describe a picture first."), None, None, None


def failure(message: str) -> gr.Error:
    """An error of the visitor's, shown to them and not to the log."""
    return gr.Error(present.safe(message), print_exception=False)
