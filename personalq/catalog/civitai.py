"""civitai's JSON: one version beside a file (`.civitai.info`) or a whole model as its API gives it. No network."""

from __future__ import annotations

import re
from dataclasses import replace

from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import Fields
from personalq.records import Kind

KINDS: dict[str, Kind] = {
    "lora": "lora",
    "locon": "lora",
    "dora": "lora",
    "textualinversion": "ti",
    "embedding": "ti",
    "checkpoint": "dreambooth",
}
MODEL_FILES = ("", "Model", "Pruned Model")
ARCHIVES = (".zip", ".rar", ".7z")
MAX_PROMPTS = 5


def recognises(document: Fields) -> bool:
    """Whether the object is one version or a model with its versions."""
    return "modelVersions" in document or "modelId" in document or ("trainedWords" in document and "files" in document)


def read(document: Fields) -> tuple[Facts, ...]:
    """One entry for a version; for a model one entry per version that has weights, matched by file name or digest,
    and one entry without triggers and dates for weights that match none of them."""
    if "modelVersions" not in document:
        model = document.child("model")
        return (version_facts(document, model, document.text("modelId")),)
    group = document.text("id")
    versions = tuple(
        version_facts(version, document, group)
        for version in document.children("modelVersions")
        if _holds_weights(version)
    )
    if len(versions) == 1:
        return versions
    shared = replace(model_facts(document, group), names=())
    return (*(replace(version, beside=False) for version in versions), shared)


def model_facts(model: Fields, group: str) -> Facts:
    """What holds for every version of a model."""
    return Facts(
        source="civitai",
        name=model.text("name"),
        kind=KINDS.get(model.text("type").casefold()),
        tags=model.texts("tags"),
        description=model.text("description"),
        group=f"civitai-{group}" if re.fullmatch(r"\d{1,12}", group) else "",
        license=model.text("license"),
    )


def version_facts(version: Fields, model: Fields, group: str) -> Facts:
    """What one version says, together with what its model says."""
    shared = model_facts(model, group)
    base = version.text("baseModel")
    files = [file for file in version.children("files") if file.text("type") in MODEL_FILES]
    hashes = (file.child("hashes").text("SHA256", "AutoV2").casefold() for file in files)
    return replace(
        shared,
        bases=(base,) if base else (),
        triggers=version.texts("trainedWords"),
        description="\n".join(filter(None, (shared.description, version.text("description")))),
        sample_prompts=_prompts(version),
        version=version.text("name"),
        uploaded_at=version.text("createdAt", "publishedAt"),
        names=tuple(name for file in files if (name := file.text("name"))),
        hashes=tuple(digest for digest in hashes if re.fullmatch(r"[0-9a-f]{10,64}", digest)),
    )


def _holds_weights(version: Fields) -> bool:
    """False for a "version" that is nothing but a training set."""
    files = version.children("files")
    return not files or any(
        file.text("type") in MODEL_FILES and not file.text("name").casefold().endswith(ARCHIVES) for file in files
    )


def _prompts(version: Fields) -> tuple[str, ...]:
    prompts = (image.child("meta").text("prompt") for image in version.children("images"))
    return tuple(prompt for prompt in prompts if prompt)[:MAX_PROMPTS]
