"""Names of base models in one normal form. It does not look at files: what a base *is* stands in `scan`."""

from __future__ import annotations

import re

UNKNOWN = frozenset({"", "other", "unknown", "none", "null", "base", "model", "diffusers"})
SOME_STABLE_DIFFUSION = "Stable Diffusion"
"""A card that gives no version: no mismatch for any Stable Diffusion, one for any other family."""
WEIGHT_SUFFIX = re.compile(r"\.(?:safetensors|ckpt|pt|bin)$", re.IGNORECASE)
# Patterns over the lower-cased last path segment with every separator run written as one "-".
NORMAL_FORMS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(?:stable-diffusion-|sd-?)?(?:v-?)?1[-.]4(?:-base)?", "SD 1.4"),
        (r"(?:stable-diffusion-|sd-?)?(?:v-?)?1[-.]5(?:-base|-pruned|-emaonly|-hyper|-lcm)*", "SD 1.5"),
        (r"sd-?v?1(?:-x)?|v1(?:[-.]5-pruned-emaonly)?|(?:stable-diffusion|sd)-v?1(?:-x)?", "SD 1.5"),
        (r"(?:stable-diffusion-|sd-?)?(?:v-?)?2[-.]1-768(?:-v)?|stable-diffusion-2-1|sd-v2-768-v", "SD 2.1 768"),
        (r"(?:stable-diffusion-|sd-?)?(?:v-?)?2[-.]0-768(?:-v)?|stable-diffusion-2", "SD 2.0 768"),
        (r"(?:stable-diffusion-|sd-?)?(?:v-?)?2[-.]1(?:-base|-unclip)?|stable-diffusion-2-1-base", "SD 2.1"),
        (r"(?:stable-diffusion-|sd-?)?(?:v-?)?2[-.]0(?:-base)?|stable-diffusion-2-base", "SD 2.0"),
        (r"sd-?v?2(?:-x)?|v2|(?:stable-diffusion|sd)-v?2(?:-x|-512|-768-v)?", "SD 2.1"),
        (r"(?:stable-diffusion-xl|sdxl)-turbo", "SDXL Turbo"),
        (r"(?:stable-diffusion-)?xl|sdxl(?:-1[-.]0|-0[-.]9)?|sd-?xl", "SDXL 1.0"),
        (r"(?:stable-diffusion-xl|sdxl)-(?:v1-)?base(?:-v?[01][-.]\d)?", "SDXL 1.0"),
        (r"(?:stable-diffusion-3|sd-?3)(?:-medium)?(?:-diffusers)?", "SD 3"),
        (r"(?:stable-diffusion-3|sd-?3)[-.]5(?:-(?:large|medium))?", "SD 3.5"),
        (r"flux-?[-.]?1?-?d(?:ev)?|flux-?1?|flux-1-dev-lora", "FLUX.1-dev"),
        (r"flux-?[-.]?1?-?s(?:chnell)?", "FLUX.1-schnell"),
    )
)
FAMILIES = (
    ("SD 1", re.compile(r"SD 1\b")),
    ("SD 2", re.compile(r"SD 2\b")),
    ("SD 3", re.compile(r"SD 3\b")),
    ("SDXL", re.compile(r"SDXL|Pony|Illustrious|NoobAI", re.IGNORECASE)),
    ("FLUX.1", re.compile(r"FLUX\.1")),
)


def normal_base(stored: str) -> str | None:
    """`stored` in its normal form; None when it names no base model.

    A folder path, Hub id or file name counts by its last segment, so `../../bases/tiny-sd` is `tiny-sd`; a name that
    is not known keeps its own spelling.
    """
    name = WEIGHT_SUFFIX.sub("", stored.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]).strip()
    key = re.sub(r"[\s_-]+", "-", name.casefold()).strip("-")
    if key.replace("-", " ") in UNKNOWN or not re.search(r"[^\W\d_]|^[12][.]\d$", key):
        return None
    if "(" in name:  # A remark about the base, such as "(card gives no version)", is no name.
        return normal_base(name.partition("(")[0])
    if key == "stable-diffusion":
        return SOME_STABLE_DIFFUSION
    for pattern, normal in NORMAL_FORMS:
        if pattern.fullmatch(key):
            return normal
    return name[:80]


def family(base: str) -> str:
    """The family whose adapters load on each other's bases: "SD 1", "SDXL"; an unknown base is its own family."""
    for name, pattern in FAMILIES:
        if pattern.match(base):
            return name
    return base
