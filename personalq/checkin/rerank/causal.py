"""A reranker over a local causal language model: logit(yes) - logit(no) at the last position. It asks no network once
the model is there, and runs no code of the model's repository.

The prompt of models that know its tokens is the one of the Qwen3-Reranker card
(https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, "Transformers Usage": `prefix`, `suffix`, `format_instruction`,
`process_inputs`, `compute_logits`), with an instruction of our own as the card advises. Differences from the card: the
difference of the logits is kept and not its sigmoid, which saturates (QwenLM/Qwen3-Embedding#143), and positions are
counted from the first token that is no padding, which only matters to models with learned positions. Other models get
a plain "Yes / No" prompt. The card's example scores were not reproduced when this was written: no weights were at
hand. Reproduce them before trusting a model, for wrong templates rank at random (vllm-project/vllm#21681).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from personalq.checkin.rerank.prompt import document, query
from personalq.checkin.rerank.protocol import Calibration, OptedIn, Scores
from personalq.errors import ModelError, RerankerError
from personalq.records import Candidate, Intent

INSTRUCTION = "Given a request for a picture, judge whether this checkpoint is what the request wants to see"
LONGEST = 1024
"""Tokens of the longest prompt; what is cut off is the end of the checkpoint's text."""
BATCH = 8


@dataclass(frozen=True)
class Template:
    """A prompt around the pair, and the two words whose logits are compared."""

    prefix: str
    pair: str
    suffix: str
    yes: str
    no: str


QWEN3 = Template(
    prefix="<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    pair="<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    suffix="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    yes="yes",
    no="no",
)
PLAIN = Template(
    prefix="",
    pair="{instruction}. Answer Yes or No.\nRequest: {query}\nCheckpoint: {document}",
    suffix="\nAnswer:",
    yes=" Yes",
    no=" No",
)
_QWEN3_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


class Causal(OptedIn):
    """s_c = logit(yes) - logit(no) for each candidate, in bfloat16 unless `dtype` says otherwise."""

    name = "causal"
    assumed = Calibration(temperature=2.0, none_logit=0.0)

    def __init__(
        self,
        model: str,
        calibration: Calibration | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        template: Template | None = None,
    ) -> None:
        """`model` is a folder or a Hub id.

        Raises ModelError when it cannot be loaded, RerankerError when its tokenizer has no such answers.
        """
        super().__init__(model, calibration)
        self._tokenizer, self._model = _load(model, device, dtype)
        self._template = template or template_of(self._tokenizer)
        self.yes, self.no = (_token(self._tokenizer, self._template, word) for word in ("yes", "no"))
        self._prefix = self._ids(self._template.prefix)
        self._suffix = self._ids(self._template.suffix)
        self._reserved = sorted((text for text in self._tokenizer.get_added_vocab() if text), key=len, reverse=True)
        widest = getattr(self._model.config, "max_position_embeddings", None) or LONGEST
        self._room = min(LONGEST, widest) - len(self._prefix) - len(self._suffix)
        self._takes = set(inspect.signature(self._model.forward).parameters)
        self._lock = threading.Lock()

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> Scores:
        """Raises RerankerError when the model runs out of memory."""
        prompts = [self.prompt(intent, candidate) for candidate in candidates]
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
        logits = [0.0] * len(prompts)
        try:
            with self._lock, torch.inference_mode():
                for start in range(0, len(order), BATCH):
                    rows = order[start : start + BATCH]
                    for at, logit in zip(rows, self._forward([prompts[at] for at in rows]), strict=True):
                        logits[at] = logit
        except RuntimeError as failed:
            raise RerankerError(f"The language model {self.model} failed ({type(failed).__name__}).") from failed
        return logits, [f"the language model favours yes by {logit:.1f}" for logit in logits]

    def prompt(self, intent: Intent, candidate: Candidate) -> list[int]:
        """The token ids of one candidate's prompt, at most LONGEST; no catalogue text becomes a special one."""
        pair = self._template.pair.format(
            instruction=INSTRUCTION,
            query=self._inert(query(intent)),
            document=self._inert(document(candidate.checkpoint)),
        )
        return [*self._prefix, *self._ids(pair)[: self._room], *self._suffix]

    def _forward(self, prompts: list[list[int]]) -> list[float]:
        width = max(len(prompt) for prompt in prompts)
        padding = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([[padding] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in self._takes:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        kept = {"logits_to_keep": 1} if "logits_to_keep" in self._takes else {}
        on_device = {name: value.to(self._model.device) for name, value in inputs.items()}
        last = self._model(**on_device, use_cache=False, **kept).logits[:, -1, :].float()
        found: list[float] = (last[:, self.yes] - last[:, self.no]).tolist()
        return found

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return found

    def _inert(self, text: str) -> str:
        """`text` without anything the tokenizer would read as one of its added tokens."""
        while found := next((reserved for reserved in self._reserved if reserved in text), None):
            text = text.replace(found, "")
        return text


def template_of(tokenizer: Any) -> Template:
    """QWEN3 for a tokenizer that has its tokens, else PLAIN."""
    known = tokenizer.get_vocab()
    return QWEN3 if all(token in known for token in _QWEN3_TOKENS) else PLAIN


def _token(tokenizer: Any, template: Template, answer: Literal["yes", "no"]) -> int:
    """The one token that says `answer` right after the template."""
    word = template.yes if answer == "yes" else template.no
    before = tokenizer.encode(template.suffix, add_special_tokens=False)
    after = tokenizer.encode(template.suffix + word, add_special_tokens=False)
    unknown = tokenizer.unk_token_id
    if after[:-1] != before or len(after) != len(before) + 1 or after[-1] == unknown:
        raise RerankerError(
            f"The tokenizer has no single token for {word.strip()!r} after the prompt; choose another model."
        )
    return int(after[-1])


def _load(model: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, use_safetensors=True)
    except (ImportError, OSError, ValueError, KeyError) as broken:
        raise ModelError(
            f"The language model {model!r} cannot be loaded ({type(broken).__name__}); give a folder or Hub id of a "
            "causal model in safetensors, and check the connection if it has yet to be downloaded."
        ) from broken
    return tokenizer, loaded.to(device_of(device)).eval()


def device_of(name: str) -> str:
    """ "auto" is CUDA where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
