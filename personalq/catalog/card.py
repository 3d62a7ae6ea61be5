"""Hugging Face model cards (`README.md`): YAML front matter and the body under it. No Hub, no network."""

from __future__ import annotations

import re
from itertools import accumulate

import yaml  # type: ignore[import-untyped]

from personalq.catalog.clean import plain
from personalq.catalog.facts import Facts, Reading
from personalq.catalog.nouns import CATEGORY_OF
from personalq.catalog.triggers import PICTURE_OF, stated_in, unique
from personalq.catalog.untrusted import MAX_TEXT, Fields, clean
from personalq.errors import BrokenFileError

MAX_FRONT_MATTER = 64 * 1024
MAX_NESTING = 40
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]{1,8}(\S.{0,200}?)[ \t]{0,8}#{0,6}$", re.MULTILINE)
MODIFY = re.compile(r"modifying the `?instance_prompt`?:\s*\*\*(.{2,120}?)\*\*")
CONCEPT = re.compile(r"This is the `(<[^`<>]{1,60}>)` concept")
MADE_FOR = re.compile(r"fine-tuned on `([\w ]{2,30})` images|use(?:d)? as an? `(style|object)`")
QUESTION = re.compile(r"\s*(?:Was LoRA|LoRA for|Quant training|Pivotal tuning|Special VAE)\b", re.IGNORECASE)
HOW_TO = re.compile(
    r"usage|use it|how to|download|trigger|details|dataset|training|intended use|license|limitations", re.I
)
TEMPLATE = re.compile(
    r"adaption weights|DreamBooth LoRA weights|can be used by modifying|DreamBooth Hackathon|were trained using"
    r"|^This is a Stable Diffusion model fine-tuned|^LoRA for the text encoder|^Special VAE|^Quant training"
    r"|Stable Conceptualizer|Here is the new concept|into the concept libraries|to trigger the image generation",
    re.IGNORECASE,
)
BOILERPLATE = """text-to-image diffusers lora stable-diffusion stable-diffusion-diffusers stable-diffusion-xl dreambooth
    stable-diffusion-xl-diffusers diffusers-training pytorch diffusion-models-class dreambooth-hackathon flux peft
    flux-diffusers textual_inversion textual-inversion template:sd-lora safetensors"""
BOILERPLATE_TAGS = frozenset(BOILERPLATE.split())


class _PlainLoader(yaml.BaseLoader):  # type: ignore[misc]
    """YAML in which every scalar is text and nothing is shared, so a few lines cannot grow to gigabytes."""

    def compose_node(self, parent: object, index: object) -> object:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def read(text: str) -> Reading:
    """Facts of one card; none for a README that is no model card.

    Broken front matter is reported and the body still read.
    """
    match = FRONT_MATTER.match(text)
    body = (text[match.end() :] if match else text)[:MAX_TEXT]
    problems: tuple[str, ...] = ()
    matter = Fields(None)
    try:
        matter = front_matter(match[1]) if match else matter
    except BrokenFileError as error:
        problems = (str(error),)
    if not match and not MODIFY.search(body) and not CONCEPT.search(body):
        return Reading()
    prompts = tuple(prompt for item in matter.children("widget") if (prompt := item.text("text")))
    license_name = matter.text("license_name") if matter.text("license") in ("", "other") else matter.text("license")
    facts = Facts(
        source="card",
        name=_title(body),
        bases=matter.texts("base_model"),
        triggers=_triggers(matter, body),
        class_noun=_class_noun(matter, body),
        tags=tuple(tag for tag in matter.texts("tags") if tag.casefold() not in BOILERPLATE_TAGS),
        description=_description(body),
        sample_prompts=prompts[:5],
        trained_at=matter.text("date"),
        version=matter.text("version"),
        license=license_name or matter.text("license"),
    )
    return Reading((facts,), (*problems, *matter.complaints))


def front_matter(text: str) -> Fields:
    """The YAML block of a card. Raises BrokenFileError when it is malformed, too long or refers to itself."""
    if len(text) > MAX_FRONT_MATTER:
        raise BrokenFileError("Its front matter is longer than 64 KiB; shorten it.")
    depths = accumulate(1 if mark in "[{" else -1 for mark in re.findall(r"[\[{\]}]", text))
    if max(depths, default=0) > MAX_NESTING:  # The scanner takes quadratic time over open brackets.
        raise BrokenFileError(f"Its front matter is nested deeper than {MAX_NESTING} levels; it is broken or hostile.")
    try:
        return Fields(yaml.load(text, Loader=_PlainLoader), where="front matter ")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenFileError(f"Its front matter is no plain YAML ({reason}); repair it.") from error


def _triggers(matter: Fields, body: str) -> tuple[str, ...]:
    """What the card says to type: its body's own words first, then `instance_prompt`."""
    spoken = (match[1] for pattern in (MODIFY, CONCEPT) for match in pattern.finditer(body))
    arrows = re.findall(r"→ use `([^`\n]{1,60})` in your prompt", body)
    return unique((*spoken, *arrows, *stated_in(body.replace("**", "")), *matter.texts("instance_prompt")))


def _class_noun(matter: Fields, body: str) -> str:
    """The noun of "a photo of zwx dog": the last of at least two words; or what the body says it was made for."""
    prompts = (*(match[1] for match in MODIFY.finditer(body)), *matter.texts("instance_prompt"))
    for prompt in prompts:
        words = PICTURE_OF.sub("", prompt, count=1).split()
        if PICTURE_OF.match(prompt) and len(words) in (2, 3) and re.fullmatch(r"[a-z]{2,20}", words[-1]):
            return words[-1]
    match = MADE_FOR.search(body)
    noun = (match[1] or "").casefold() if match else ""
    return noun if noun in CATEGORY_OF else ""


def _title(body: str) -> str:
    """The first heading, without the phrases templates put around the name."""
    match = HEADING.search(body)
    if not match or HOW_TO.search(match[1]):
        return ""
    heading = clean(plain(match[1]))
    concept = re.match(r"DreamBooth model for the (.+?) concept", heading)
    if concept:
        return concept[1]
    heading = re.sub(r" on Stable Diffusion.*$", "", heading)
    if re.search(r"\b(?:lora|dreambooth|textual inversion|fine-?tun\w+)\b.* - ", heading, re.IGNORECASE):
        heading = heading.rpartition(" - ")[2].rpartition("/")[2]
    return heading if len(heading) <= 80 and not re.fullmatch(r"model (?:card|description).*", heading, re.I) else ""


def _description(body: str) -> str:
    """The body without headings, how-to sections and the sentences every template repeats."""
    kept, skipping = [], False
    for line in body.splitlines():
        heading = HEADING.match(line)
        if heading:
            skipping = bool(HOW_TO.search(heading[1])) and "description" not in heading[1].casefold()
        elif not skipping and not line.startswith("    ") and not QUESTION.match(line):
            kept.append(line)
    sentences = re.split(r"(?<=[.!?])\s+|\n", plain("\n".join(kept)))
    return "\n".join(sentence for sentence in sentences if not TEMPLATE.search(sentence))
