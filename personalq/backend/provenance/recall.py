"""From what a picture claims about how it was made to a job for this catalogue. It opens no files.

Names pick wrong LoRAs: two files of one name are common, and no picture shows it. So a hash decides wherever there is
one, and a name alone counts only where the picture gives none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from personalq.backend.provenance.claims import validated
from personalq.backend.provenance.infotext import AUTO_V2
from personalq.catalog.bases import normal_base
from personalq.catalog.weights import GENERIC_STEM
from personalq.records import Checkpoint, Job, Precision, Recalled, Span

STEPS, GUIDANCE = 200, 30.0
"""The most of a job."""
AUTO_V3 = 12
"""Digits of the web UI's own hash of a LoRA, the SHA-256 of what follows the file's header."""
PLAIN = Job("")
"""A job's defaults."""


def recalled(
    data: object, checkpoints: Mapping[str, Checkpoint], precisions: Collection[str], base_name: str | None
) -> Recalled:
    """The job that data claims, such as `metadata.read_png` gives or a browser kept; nothing of it is trusted.

    `checkpoints` are those here by id, `precisions` the names of those known here, and `base_name` is the base that is
    used here, if any. Raises PictureError for data that says no prompt.
    """
    claims = validated(data)
    chosen: dict[str, tuple[Checkpoint, float]] = {}
    ids: dict[str, str | None] = {}
    missing, remarks = [], []
    for concept in _concepts(claims, checkpoints):
        found, remark = _found(concept, checkpoints.values())
        remarks += [remark] if remark else []
        ids[concept["id"]] = found.id if found else None
        if found is None:
            missing.append(_told(concept))
        else:
            weight = found.weight if concept["weight"] is None else concept["weight"]
            chosen.setdefault(found.id, (found, weight))
    precision = claims["precision"] if claims["precision"] in precisions else None
    remarks += _remarks(claims, precision, base_name, any(c.kind == "dreambooth" for c, _ in chosen.values()))
    return Recalled(_job(claims, tuple(chosen.values()), ids), precision, tuple(missing), tuple(remarks))


def _job(claims: Mapping[str, Any], chosen: tuple[tuple[Checkpoint, float], ...], ids: Mapping[str, str | None]) -> Job:
    """The job, within the limits of one; spans of checkpoints that are missing are left out."""
    spans = [
        Span(span["start"], span["end"], span["role"], ids.get(span["id"]) or span["id"])
        for span in claims["spans"] or ()
        if ids.get(span["id"], span["id"]) is not None
    ]
    if claims["spans"] is None:
        spans = _marked(claims["prompt"], chosen)
    kept = claims["protect"]["chosen"]
    guidance = PLAIN.guidance if claims["guidance"] is None else min(claims["guidance"], GUIDANCE)
    return Job(
        prompt=claims["prompt"],
        negative=claims["negative"],
        spans=tuple(spans),
        checkpoints=chosen,
        seed=claims["seed"] or 0,
        steps=min(claims["steps"] or PLAIN.steps, STEPS),
        guidance=guidance,
        width=claims["width"],
        height=claims["height"],
        protect=None if kept is None else tuple(kept),
    )


def _marked(prompt: str, chosen: Iterable[tuple[Checkpoint, float]]) -> list[Span]:
    """The canonical triggers in a prompt whose text does not mark them."""
    found = [(prompt.find(c.triggers[0]), c) for c, _ in chosen if c.triggers]
    return [Span(at, at + len(c.triggers[0]), "trigger", c.id) for at, c in found if at >= 0]


# --- which checkpoint --------------------------------------------------------------------------


def _concepts(claims: Mapping[str, Any], checkpoints: Mapping[str, Checkpoint]) -> list[dict[str, Any]]:
    """The concepts; the base of another program is one too where its hash is that of a whole model here."""
    base = claims["base"]
    whole = {"id": base["name"], "name": base["name"], "kind": "dreambooth", "sha256": base["sha256"], "weight": 1.0}
    here = base["sha256"] and [c for c in checkpoints.values() if c.kind == "dreambooth" and _same(c, base["sha256"])]
    return [*claims["concepts"], *([whole] if here else [])]


def _same(checkpoint: Checkpoint, digest: str) -> bool:
    hashes = (checkpoint.weight_sha256, checkpoint.tensors_sha256 if len(digest) == AUTO_V3 else None)
    return len(digest) >= AUTO_V2 and any(hash_ and hash_.startswith(digest) for hash_ in hashes)


def _found(concept: Mapping[str, Any], here: Iterable[Checkpoint]) -> tuple[Checkpoint | None, str]:
    """The checkpoint that a concept is, and what to say of that."""
    name, digest = concept["name"] or concept["id"], concept["sha256"]
    known = list(here)
    named = [c for c in known if _is_called(c, concept)]
    if digest:
        same = [c for c in known if _same(c, digest)]
        same.sort(key=lambda c: (not c.loadable, c not in named))  # of two copies that of the name
        if len({c.weight_sha256 for c in same}) > 1:
            return None, f"{name}: {len(same)} checkpoints here begin with the hash {digest}."
        found = same[0] if same else None
        if found is None and named:
            return None, f"{named[0].id} is here under the name of {name}, but {_differs(named[0], digest)}."
    else:
        found = named[0] if len(named) == 1 else None
        if len(named) > 1:
            return None, f"{name}: {len(named)} checkpoints here are called that, and the picture gives no hash."
    if found is None:
        return None, ""
    if not found.loadable:
        return None, f"{found.id} is here, but in a format that is never loaded."
    return found, "" if digest else f"{name} was found by its name alone: the picture gives no hash."


def _differs(checkpoint: Checkpoint, digest: str) -> str:
    if len(digest) < AUTO_V2:
        return f"{digest} is a hash that too many files share: it is not used"
    if checkpoint.weight_sha256 is None or (len(digest) == AUTO_V3 and checkpoint.tensors_sha256 is None):
        return "the hash of its file is not known here: it is not used"
    return "its file is another one: it is not used"


def _is_called(checkpoint: Checkpoint, concept: Mapping[str, Any]) -> bool:
    """Whether a concept's name is this checkpoint's id, or the stem of its file if that says anything."""
    if concept["kind"] not in ("", checkpoint.kind):
        return False
    stem = PurePath(checkpoint.files[0]).stem if checkpoint.files else ""
    names = {checkpoint.id} if GENERIC_STEM.fullmatch(stem) else {checkpoint.id, stem}
    return bool(concept["id"]) and concept["id"] in names


def _told(concept: Mapping[str, Any]) -> str:
    """A missing concept with its name and hash, as far as they are known."""
    digest = concept["sha256"]
    kinds = {8: "AutoV1", AUTO_V2: "AutoV2", AUTO_V3: "AutoV3", 64: "SHA-256"}
    hash_ = f"{kinds.get(len(digest), 'hash')} {digest}" if digest else "no hash"
    return f"{concept['name'] or concept['id'] or 'a checkpoint without a name'} ({hash_})"


# --- what else differs -------------------------------------------------------------------------


def _remarks(
    claims: Mapping[str, Any], precision: Precision | None, base_name: str | None, replaced: bool
) -> list[str]:
    """What cannot be repeated beside checkpoints; `replaced` tells that one of them replaces the base."""
    base, remarks = claims["base"]["name"], []
    other = base and base_name and _normal(base) != _normal(base_name)
    if other and not (replaced and claims["source"] == "a1111"):
        remarks.append(f"It was made with the base {base}, not with {base_name}: the picture will differ.")
    if claims["precision"] and precision is None:
        remarks.append(f"Its precision {claims['precision']} is not known here: choose another.")
    if claims["source"] == "a1111":
        remarks.append("Only the text for other programs was found: its sampler and emphasis marks are not followed.")
    if claims["altered"]:
        remarks.append("Its prompt was too long, or held characters that are not kept.")
    for name, default, limit in (("steps", PLAIN.steps, STEPS), ("guidance", PLAIN.guidance, GUIDANCE)):
        if claims[name] is None:
            remarks.append(f"It does not say its {name}: {default:g} is used.")
        elif claims[name] > limit:
            remarks.append(f"Its {name}, {claims[name]:g}, exceeds what is made here: {limit:g} is used.")
    if claims["seed"] is None:
        remarks.append("It does not say its seed: 0 is used.")
    return remarks


def _normal(base: str) -> str:
    return (normal_base(base) or re.sub(r"\s+", " ", base)).casefold()
