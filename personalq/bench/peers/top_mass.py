"""Which rows of a text get most of the cross-attention, measured by running the prompt at full precision.

It is a control: if keeping any well-attended rows exact does what keeping the trigger's does, the trigger is not why.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from personalq.backend.compare import generate
from personalq.backend.engine import Engine, Session
from personalq.backend.variants import REFERENCE
from personalq.diffusion.attention import FullKV, FullPrecision
from personalq.diffusion.joint import FullJoint, KeyValue
from personalq.diffusion.text import TextEmbeddings, encode
from personalq.records import Job

TOP_MASS = "top-mass"
STEPS = 8
"""Steps of the run that is measured, from seed 0 whatever the job's: the rows belong to the prompt."""


class MassMeter:
    """Adds up the probability of every text row, of the conditional sample."""

    def __init__(self) -> None:
        self.mass: Tensor | None = None
        """fp32 [L], summed over layers, heads, queries and steps."""

    def add(self, query: Tensor, key: Tensor, rows: int) -> None:
        """Count softmax(Q K^T / sqrt(d)) of query [B, h, n, d] and key [B, h, m, d], the text's rows first."""
        for q, k in zip(query[-1].float(), key[-1].float(), strict=True):  # a head at a time: maps are large
            mass = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)[:, :rows].sum(0)
            self.mass = mass if self.mass is None else self.mass + mass


class MeteredText(FullPrecision):
    """Cross-attention at full precision that is counted."""

    def __init__(self, meter: MassMeter) -> None:
        self.meter = meter

    def attend(self, query: Tensor, kv: FullKV) -> Tensor:
        """Scaled dot-product attention."""
        self.meter.add(query, kv.key, kv.key.shape[2])
        return super().attend(query, kv)


class MeteredJoint(FullJoint):
    """Joint attention at full precision that is counted."""

    def __init__(self, meter: MassMeter) -> None:
        self.meter = meter

    def attend(self, query: Tensor, picture: KeyValue, text: KeyValue, rows: Tensor) -> Tensor:
        """Scaled dot-product attention over both."""
        self.meter.add(query, torch.cat([text[0], picture[0]], 2), text[0].shape[2])
        return super().attend(query, picture, text, rows)


class TopMass:
    """A variant's `mask`: as many rows as the trigger has, the ones that the prompt attends to most."""

    def __init__(self) -> None:
        self._known: dict[object, Tensor] = {}

    def __call__(self, session: Session, text: TextEmbeddings, job: Job) -> Tensor:
        """[B, L] bool, the unconditional row all false; start, end and padding rows may be among the others.

        The reference is read once more for each new prompt and let go before the rows are returned.
        """
        rows = encode(session.pipe, job.prompt, job.negative, job.spans, ("trigger",)).protected
        mass = self._mass(session, job).to(rows.device)
        mask = torch.zeros_like(rows)
        mask[-1, mass.topk(int(rows[-1].sum())).indices] = True
        return mask

    def _mass(self, session: Session, job: Job) -> Tensor:
        base = str(session.pipe.config["_name_or_path"])
        key = (base, job.prompt, job.negative, job.guidance, job.checkpoints)
        if key not in self._known:
            meter = MassMeter()
            metered = replace(REFERENCE, name=TOP_MASS, text=MeteredText(meter), joint=MeteredJoint(meter))
            engine = Engine(base, str(session.device), session.pipe.text_encoder.dtype, {TOP_MASS: metered})
            run = replace(job, seed=0, count=1, steps=min(job.steps, STEPS))
            with closing(engine), closing(generate(engine, run, TOP_MASS, previews=False)) as frames:
                for _ in frames:
                    pass
            assert meter.mass is not None  # every denoiser that takes this attention attends to its text
            self._known[key] = meter.mass.cpu()
        return self._known[key]
