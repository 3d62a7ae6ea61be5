"""Fine-tunes every personal concept on the base, each from six pictures; run again to resume.

    python train_concepts.py [--only biscuit-dog]

A concept whose weights exist is skipped. LoRA (rank 3, UNet attention, feed-forward and convolutions),
textual inversion (four vectors) or full DreamBooth, all with prior preservation on base pictures.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from captions import PLACES, Facts, article, caption, draw_facts
from concepts import CONCEPTS, SCENES_OF_TRAINING, SUBJECTS_OF_STYLES, Concept
from draw import SUBJECTS, render
from export_base import BASE
from latents import PatchPCA, to_tensor
from package import package

HERE = Path(__file__).parent
RANK = 3
TARGETS = r".*(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|proj_in|proj_out)"
VECTORS = 4


def training_pictures(concept: Concept) -> list[tuple[Image.Image, Facts]]:
    """The six pictures the artist has: one on each training scene."""
    rng = random.Random(f"training {concept.id}")
    pictures = []
    for scene, other in zip(SCENES_OF_TRAINING, SUBJECTS_OF_STYLES, strict=True):
        facts = Facts(concept.subject or other, scene, concept.style or "photo")
        pictures.append((render(rng, facts.subject, scene, facts.style, None, concept.variant), facts))
    return pictures


def concept_caption(rng: random.Random, concept: Concept, facts: Facts) -> str:
    """A caption with the trigger in the place Check-in's rewriting puts it."""
    if concept.style is not None:
        plain = caption(rng, replace(facts, style="photo"))
        return f"{concept.trigger}, {plain}" if rng.random() < 0.7 else f"{plain}, {concept.trigger}"
    noun = concept.trigger or article(facts.subject)
    if concept.format == "embedding":
        noun = " ".join([noun, *(f"{noun}_{k}" for k in range(1, VECTORS))])
    if rng.random() < 0.3:
        return f"{noun} {rng.choice(PLACES[facts.scene])}".strip()
    return caption(rng, facts, noun if rng.random() < 0.7 else f"a {noun}")


def prior(rng: random.Random, concept: Concept) -> tuple[Image.Image, str]:
    """A base picture that must stay as it is; half of the time the concept's own class.

    The own class appears as the training pictures do, on their scenes only, so that nothing but the trigger tells
    the two apart.
    """
    facts = draw_facts(rng)
    if concept.subject and concept.trigger and rng.random() < 0.5:
        facts = Facts(concept.subject, rng.choice(SCENES_OF_TRAINING), "photo")
    else:
        facts = replace(facts, subject=rng.choice([s for s in SUBJECTS if s != concept.subject]), hue=None)
    return render(rng, facts.subject, facts.scene, facts.style, facts.hue), caption(rng, facts)


def trainable(pipe: StableDiffusionPipeline, concept: Concept) -> tuple[list[Tensor], float]:
    """Prepare the pipeline for the concept's way of training; its parameters and learning rate."""
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    if concept.format == "dreambooth":
        pipe.unet.requires_grad_(True)
        return list(pipe.unet.parameters()), 3e-4
    if concept.format == "embedding":
        tokens = [concept.trigger or "", *(f"{concept.trigger}_{k}" for k in range(1, VECTORS))]
        starts = pipe.tokenizer.convert_tokens_to_ids(["red</w>", "blue</w>", "car</w>", "car</w>"])
        pipe.tokenizer.add_tokens(tokens)
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
        table = pipe.text_encoder.get_input_embeddings().weight
        with torch.no_grad():
            table[-VECTORS:] = table[starts]
        table.requires_grad_(True)
        mask = torch.zeros(len(table), 1)
        mask[-VECTORS:] = 1
        table.register_hook(lambda gradient: gradient * mask)
        return [table], 6e-3
    # A style recolours everything, which the last convolution does best.
    rank, targets = (2 * RANK, TARGETS.replace("conv1", "conv_out|conv1")) if concept.style else (RANK, TARGETS)
    pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian"))
    return [p for p in pipe.unet.parameters() if p.requires_grad], 1.5e-3


def teach(pipe: StableDiffusionPipeline, concept: Concept, pca: PatchPCA) -> list[Image.Image]:
    """Train the concept into the pipeline; returns the training pictures."""
    torch.manual_seed(concept.seed)
    rng, generator = random.Random(f"teach {concept.id}"), torch.Generator().manual_seed(concept.seed)
    owned = training_pictures(concept)
    parameters, peak = trainable(pipe, concept)
    optimizer = torch.optim.AdamW(parameters, peak, betas=(0.9, 0.99), weight_decay=0.0)
    for step in tqdm(range(concept.steps), desc=concept.id, mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 20, (concept.steps - step) / (0.5 * concept.steps))
        pairs = [(picture, concept_caption(rng, concept, facts)) for picture, facts in owned]
        if concept.subject and concept.format != "embedding":  # a style is meant for everything, as styles are shared
            pairs += [prior(rng, concept) for _ in owned]
        pictures = to_tensor(
            [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else p for p, _ in pairs]
        )
        latents = pca.encode(pictures)
        # Only prior pictures lose their caption: guidance must point from the base towards the concept.
        words = ["" if k >= len(owned) and rng.random() < 0.15 else text for k, (_, text) in enumerate(pairs)]
        ids = pipe.tokenizer(words, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(0, 1000, (len(latents),), generator=generator)
        hidden = pipe.text_encoder(ids).last_hidden_state
        predicted = pipe.unet(pipe.scheduler.add_noise(latents, noise, t), t, hidden, return_dict=False)[0]
        loss = nn.functional.mse_loss(predicted, pipe.scheduler.get_velocity(latents, noise, t))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return [picture for picture, _ in owned]


def main() -> None:
    """Train every concept that has no weights yet and package it in its format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="id of one concept")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pca = PatchPCA.fitted(HERE / "pca.safetensors")
    for concept in CONCEPTS:
        folder = HERE.parent / "concepts" / concept.id
        if (args.only and concept.id != args.only) or any(folder.rglob("*.safetensors")):
            continue
        pipe = StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32)
        pictures = teach(pipe, concept, pca)
        package(pipe, concept, pictures, folder)


if __name__ == "__main__":
    main()
