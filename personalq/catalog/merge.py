"""One `Checkpoint` out of the facts of several sources: who is believed, field by field. It reads no file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from personalq.catalog import roles
from personalq.catalog.bases import SOME_STABLE_DIFFUSION, family, normal_base
from personalq.catalog.clean import description as clean_description
from personalq.catalog.clean import plain, without_tags
from personalq.catalog.facts import Facts, Source
from personalq.catalog.triggers import LOADER_TAG, insertable, is_generic, stated_in, unique
from personalq.catalog.untrusted import UNSAFE
from personalq.catalog.versions import iso_date, ordinal, slug, split_version
from personalq.catalog.weights import GENERIC_STEM
from personalq.records import Checkpoint, Kind

# Whose trigger is believed, the most trusted first; a phrase in a description comes last, tags and file names never.
TRIGGER_ORDER: tuple[Source, ...] = (
    "user", "a1111", "lora-manager", "cm-info", "invokeai", "draw-things", "space-list", "ai-horde",
    "civitai", "modelspec", "card", "embedding", "header-token",
)  # fmt: skip
# Who is asked first for names, descriptions, licences and versions.
TEXT_ORDER: tuple[Source, ...] = (
    "user", "lora-manager", "civitai", "cm-info", "card", "invokeai", "draw-things", "space-list", "ai-horde", "a1111",
    "modelspec", "peft", "kohya", "embedding", "header-token", "diffusers", "hub", "weights",
)  # fmt: skip
MAX_TRIGGERS, MAX_TAGS, MAX_ALIASES, MAX_PROMPTS = 40, 40, 10, 5
MAX_NAME, MAX_TAG, MAX_PROMPT = 200, 60, 300  # characters


def merge(
    facts: Sequence[Facts],
    own_name: str,
    local_bases: Collection[str] = (),
    files: tuple[str, ...] = (),
    preview: str | None = None,
    sha256: str | None = None,
    tensors_sha256: str | None = None,
) -> Checkpoint:
    """The record of one checkpoint, still without its id.

    `own_name` is the file's or folder's name; `local_bases` are the names of the base models that are at hand, and a
    source that names one of them is believed before the others.
    """
    told = sorted(facts, key=lambda item: TEXT_ORDER.index(item.source))
    own_name = UNSAFE.sub("", own_name)
    own_stem = "" if GENERIC_STEM.fullmatch(own_name) else own_name
    name = _name(told, own_stem) or own_name
    triggers, sources = _triggers(facts)
    text = _first(clean_description(item.description) for item in told)
    tags = _tags(item for item in told if item.source != "kohya") or _tags(told)
    version = _first(item.version[:MAX_NAME] for item in told) or split_version(name)[1] or split_version(own_name)[1]
    base, base_raw = _base(told, local_bases)
    kind = _kind(facts)
    spoken = _first(item.class_noun for item in told) or roles.spoken_noun(triggers)
    style = roles.is_style(name, triggers, tags)
    noun = spoken or (None if style else roles.implied_noun(name, tags))
    negative = any(item.negative for item in facts)
    utility = negative or roles.is_utility(name, kind, triggers, tags, text, noun)
    category = roles.category_of(noun, tags)
    role = roles.role_of(utility, style, spoken or None, noun or category)
    return Checkpoint(
        id="",
        name=name,
        kind=kind,
        base=base,
        base_raw=base_raw,
        architecture=_first(item.architecture for item in sorted(told, key=lambda item: item.source == "weights"))
        or None,
        triggers=triggers,
        trigger_sources=sources,
        class_noun=noun or None,
        category="style" if role == "style" else category,
        role=role,
        tags=tags[:MAX_TAGS],
        aliases=_aliases(told, name, own_stem),
        description=text,
        sample_prompts=_prompts(told),
        version=version,
        version_ordinal=ordinal(version),
        group_id=_first(item.group for item in told) or slug(split_version(name)[0]),
        created_at=_created(facts),
        license=_first(item.license[:MAX_NAME] for item in told) or None,
        files=files,
        preview=preview,
        weight=next((item.weight for item in _by_trust(facts) if item.weight), 1.0),
        weight_sha256=sha256,
        tensors_sha256=tensors_sha256,
        source_format="+".join(dict.fromkeys(item.source for item in told if item.source != "weights")) or "weights",
        loadable=all(item.loadable for item in facts),
    )


def _first(values: Iterable[str]) -> str:
    return next(filter(None, values), "")


def _name(told: Sequence[Facts], own_stem: str) -> str:
    """A title, else the file's own name, else the name it was trained under (which ModelSpec repeats as title)."""
    outputs = {item.name for item in told if item.source == "kohya"}
    titles = (without_tags(item.name) for item in told if item.name not in outputs)
    return _first((*titles, own_stem, *outputs))[:MAX_NAME]


def _by_trust(facts: Sequence[Facts]) -> list[Facts]:
    known = [item for item in facts if item.source in TRIGGER_ORDER]
    others = [item for item in facts if item.source not in TRIGGER_ORDER]
    return [*sorted(known, key=lambda item: TRIGGER_ORDER.index(item.source)), *others]


def _triggers(facts: Sequence[Facts]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Triggers and their sources: by trust, everyday words after the others, descriptions only when nothing else is."""
    stored = [(item.source, value) for item in _by_trust(facts) for value in item.triggers]
    known = {piece.casefold() for _, value in stored for piece in insertable(value)}
    found: dict[str, tuple[str, str]] = {}
    for source, value in stored:
        for trigger in insertable(value):
            # A joined list whose every item is a trigger of its own elsewhere is that list of triggers.
            items = [item.strip() for item in trigger.split(",")]
            listed = len(items) > 1 and all(item.casefold() in known for item in items)
            for item in items if listed else [trigger]:
                found.setdefault(item.casefold(), (item, source))
    if not found:
        for fact in facts:
            for trigger in stated_in(plain(fact.description, keep_code=True)):
                if trigger in fact.description:
                    found.setdefault(trigger.casefold(), (trigger, "description"))
    ranked = sorted(found.values(), key=lambda pair: pair[1] != "user" and is_generic(pair[0]))[:MAX_TRIGGERS]
    return tuple(trigger for trigger, _ in ranked), tuple(source for _, source in ranked)


def _tags(told: Iterable[Facts]) -> tuple[str, ...]:
    return unique(tag for item in told for stored in item.tags if (tag := without_tags(stored)[:MAX_TAG]))


def _base(told: Sequence[Facts], local_bases: Collection[str]) -> tuple[str | None, str | None]:
    """Normal form and stored form of the base; a base that is at hand counts before any other."""
    stored = [base for item in told for base in item.bases]
    hints = [base for item in told for base in item.base_hints]
    named = [(normal, base) for base in (*stored, *hints) if (normal := normal_base(base[:MAX_NAME]))]
    at_hand = [pair for pair in named if pair[0] in local_bases]
    certain = [pair for pair in named if pair[1] in stored or family(pair[0]) != pair[0]]
    certain.sort(key=lambda pair: pair[0] == SOME_STABLE_DIFFUSION)  # Whoever names a version knows more.
    return next(iter([*at_hand, *certain]), (None, next(iter([*stored, *hints]), None)))


def _kind(facts: Sequence[Facts]) -> Kind:
    """What the tensors say, else what a sidecar says."""
    certain = (item.kind for item in facts if item.source in ("weights", "embedding", "header-token") and item.loadable)
    return next((kind for kind in (*certain, *(item.kind for item in _by_trust(facts))) if kind), "lora")


def _created(facts: Sequence[Facts]) -> str | None:
    """The day of training, else of upload, else None; never of import."""
    trained = {item.source: item.trained_at for item in facts if item.trained_at}
    stored = (
        trained.pop("modelspec", ""),
        trained.pop("kohya", ""),
        *(item.uploaded_at for item in _by_trust(facts)),
        *trained.values(),
    )
    return next((day for value in stored if (day := iso_date(value))), None)


def _aliases(told: Sequence[Facts], name: str, own_stem: str) -> tuple[str, ...]:
    stored = (*(item.name for item in told), *(alias for item in told for alias in item.aliases))
    others = (own_stem, *(without_tags(alias) for alias in stored))
    return tuple(alias[:MAX_NAME] for alias in unique(filter(None, others)) if alias.casefold() != name.casefold())[
        :MAX_ALIASES
    ]


def _prompts(told: Sequence[Facts]) -> tuple[str, ...]:
    prompts = (" ".join(LOADER_TAG.sub(" ", prompt).split()) for item in told for prompt in item.sample_prompts)
    return unique(prompt[:MAX_PROMPT] for prompt in prompts if prompt)[:MAX_PROMPTS]
