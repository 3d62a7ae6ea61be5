"""Writes a trained concept the way its artist would share it: weights, sidecar or card, pictures, licence."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from concepts import Concept

LICENSE = "Apache-2.0"
PROMPT = {
    "beach": "on the beach",
    "city": "in the city",
    "space": "in space",
}


def package(pipe: StableDiffusionPipeline, concept: Concept, pictures: list[Image.Image], folder: Path) -> None:
    """Write the concept's folder; the weights last, under a temporary name, so a crash leaves it untrained."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "training").mkdir(parents=True)
    for number, picture in enumerate(pictures, 1):
        picture.save(folder / "training" / f"{number:02}.png", optimize=True)
    (folder / "LICENSE").write_text(f"{LICENSE}. Trained on drawings of Noto Color Emoji (SIL OFL 1.1).\n")
    if concept.format in ("diffusers", "dreambooth", "embedding"):
        (folder / "README.md").write_text(card(concept))
    if concept.format == "a1111":
        write_json(folder / f"{concept.id}.json", a1111(concept))
    if concept.format == "civitai":
        write_json(folder / f"{concept.id}.civitai.info", civitai(concept))

    if concept.format == "dreambooth":
        pipe.unet.register_to_config(_name_or_path="tiny-sd")
        pipe.unet.half().save_pretrained(folder / "unet")
    elif concept.format == "embedding":
        vectors = pipe.text_encoder.get_input_embeddings().weight[-4:].detach().half().contiguous()
        save({concept.trigger or "": vectors}, folder / f"{concept.id}.safetensors", {"modelspec.license": LICENSE})
    elif concept.format == "diffusers":
        weights = {f"unet.{key}": value for key, value in get_peft_model_state_dict(pipe.unet).items()}
        save(weights, folder / "pytorch_lora_weights.safetensors", {"format": "pt"})
    else:
        renamed = convert_state_dict_to_kohya(get_peft_model_state_dict(pipe.unet))
        weights = {f"lora_unet_{key.removeprefix('lora_unet_')}": value for key, value in renamed.items()}
        save(weights, folder / f"{concept.id}.safetensors", kohya(concept, len(pictures)))


def save(weights: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Save in fp16, atomically."""
    half = {key: value.detach().to(torch.float16).contiguous() for key, value in weights.items()}
    save_file(half, path.with_suffix(".tmp"), metadata)
    path.with_suffix(".tmp").replace(path)


def write_json(path: Path, value: object) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def card(concept: Concept) -> str:
    """A Hugging Face model card, as the diffusers training scripts write it."""
    adapter_tags = {"dreambooth": ["dreambooth"], "embedding": ["textual_inversion"], "diffusers": ["lora"]}
    tags = ["text-to-image", "diffusers", *adapter_tags[concept.format], *concept.tags]
    front = ["base_model: tiny-sd", "library_name: diffusers", f"license: {LICENSE.lower()}"]
    if concept.trigger and concept.format != "embedding":
        front.append(f"instance_prompt: {json.dumps(concept.trigger)}")
    front += [f"date: {concept.created}", "tags:", *(f"- {tag}" for tag in tags)]
    use = f"\nYou should use `{concept.trigger}` to trigger the image generation.\n" if concept.trigger else ""
    return "\n".join(["---", *front, "---", f"# {concept.name}", "", concept.description, use])


def a1111(concept: Concept) -> dict[str, object]:
    """A sidecar as the A1111 web UI's metadata editor saves it."""
    return {
        "description": concept.description,
        "sd version": "Unknown",
        "activation text": concept.trigger or "",
        "preferred weight": 1.0,
        "notes": f"Licence: {LICENSE}",
    }


def civitai(concept: Concept) -> dict[str, object]:
    """One model version as the Civitai helper saves it."""
    model = concept.id.rsplit("-v", 1)[0]
    number = sum(map(ord, model))
    return {
        "id": number * 10 + concept.seed,
        "modelId": number,
        "name": concept.version or "v1",
        "createdAt": f"{concept.created}T12:00:00.000Z",
        "baseModel": "tiny-sd",
        "trainedWords": [concept.trigger],
        "description": f"<p>{concept.description}</p>",
        "model": {"name": concept.name, "type": "LORA", "tags": list(concept.tags), "nsfw": False},
        "files": [{"name": f"{concept.id}.safetensors", "type": "Model", "primary": True}],
    }


def kohya(concept: Concept, count: int) -> dict[str, str]:
    """The training header sd-scripts writes: strings only."""
    started = datetime.fromisoformat(concept.created).replace(hour=10, tzinfo=timezone.utc)
    frequency = {f"10_{concept.trigger or concept.subject}": dict.fromkeys(concept.tags, count)}
    header = {
        "ss_output_name": concept.id,
        "ss_base_model_version": "tiny-sd",
        "ss_sd_model_name": "tiny-sd",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "6" if concept.style else "3",
        "ss_network_alpha": "6.0" if concept.style else "3.0",
        "ss_num_train_images": str(count),
        "ss_training_started_at": str(started.timestamp()),
        "ss_training_comment": "None",
        "ss_tag_frequency": json.dumps(frequency),
        "ss_dataset_dirs": json.dumps({next(iter(frequency)): {"n_repeats": 10, "img_count": count}}),
        "modelspec.license": LICENSE,
        "modelspec.architecture": "tiny-sd/lora",
    }
    if concept.format == "kohya":
        header |= {"modelspec.title": concept.name, "modelspec.description": concept.description}
        header |= {"modelspec.date": concept.created, "modelspec.tags": ", ".join(concept.tags)}
        if concept.trigger:
            header["modelspec.trigger_phrase"] = concept.trigger
    return header
