"""Trains the probe on drawn pictures, never on generated ones; run again to resume.

    python train_probe.py --pictures 60000

Writes `probe.safetensors`, the held-out pictures it is checked on (`held_out.webp`, `held_out.json`) and what the
model is asked to draw (`judged.json`).
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from captions import PLACES, Facts, draw_facts
from concepts import CONCEPTS
from draw import CONCEPT_STYLES, SCENES, STYLES, SUBJECTS, render
from latents import to_tensor
from personalq.bench.probe import HEADS, Probe

HERE = Path(__file__).parent
DRESSED = {c.identity: c for c in CONCEPTS if c.variant}
LABELS = {
    "subject": list(SUBJECTS),
    "scene": list(SCENES),
    "style": [*STYLES, *CONCEPT_STYLES],
    "identity": [*SUBJECTS, *DRESSED],
}
ACROSS = 20


def example(rng: random.Random) -> tuple[Image.Image, dict[str, str]]:
    """One drawn picture with its labels: half personal concepts, half base subjects; every style."""
    facts: Facts = draw_facts(rng)
    if rng.random() < 0.15:
        facts = replace(facts, style=rng.choice(list(CONCEPT_STYLES)))
    concept = rng.choice(list(DRESSED.values())) if rng.random() < 0.5 else None
    if concept is not None:
        # A concept's identity lies partly in its colours, which the monochrome styles remove.
        style = facts.style if facts.style in ("photo", "watercolor", "pixel") else "photo"
        facts = Facts(concept.subject or "", facts.scene, style)
    picture = render(rng, facts.subject, facts.scene, facts.style, facts.hue, concept.variant if concept else None)
    identity = concept.identity if concept else facts.subject
    return picture, {"subject": facts.subject, "scene": facts.scene, "style": facts.style, "identity": identity}


def worn(rng: random.Random, picture: Image.Image) -> Image.Image:
    """The picture as a lossy decoder might return it: softened, or shrunk and enlarged."""
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.4)))
    elif rng.random() < 0.5:
        side = rng.randint(36, 80)
        picture = picture.resize((side, side), Image.Resampling.BILINEAR).resize((96, 96), Image.Resampling.BILINEAR)
    return picture


def main() -> None:
    """Train until `--pictures` have been seen, then write the probe and its held-out sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    probe = Probe(LABELS)
    optimizer = torch.optim.AdamW(probe.parameters(), 2e-3, weight_decay=0.02)
    step, total, file = 0, args.pictures // args.batch, HERE / "runs" / "probe.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        probe.load_state_dict(saved["probe"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    with tqdm(total=total, initial=step, unit="step", mininterval=20) as bar:
        while step < total:
            rng = random.Random(f"probe {step}")
            drawn = [example(rng) for _ in range(args.batch)]
            pictures = to_tensor([worn(rng, picture) for picture, _ in drawn])
            pictures = pictures + torch.randn_like(pictures) * 0.08 * torch.rand(len(drawn), 1, 1, 1)
            logits = probe(pictures)
            loss = sum(
                nn.functional.cross_entropy(
                    logits[head],
                    torch.tensor([LABELS[head].index(said[head]) for _, said in drawn]),
                    label_smoothing=0.05,
                )
                for head in HEADS
            )
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1, (step + 1) / 50, (total - step) / (0.5 * total))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            bar.update()
            if step % 200 == 0:
                bar.set_postfix(loss=f"{float(loss):.3f}")
                torch.save({"probe": probe.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, file)

    rng = random.Random("held out")
    held = [example(rng) for _ in range(240)]
    sheet = Image.new("RGB", (96 * ACROSS, 96 * (len(held) // ACROSS)))
    for i, (picture, _) in enumerate(held):
        sheet.paste(picture, (96 * (i % ACROSS), 96 * (i // ACROSS)))
    sheet.save(HERE / "held_out.webp", quality=85)
    (HERE / "held_out.json").write_text(json.dumps([said for _, said in held], indent=0) + "\n")
    judged = {
        "subjects": list(SUBJECTS),
        "places": {scene: words[0] for scene, words in PLACES.items()},
        "concepts": {
            c.id: {
                "head": "style" if c.style else "identity",
                "label": c.style or c.identity,
                "noun": c.subject or "cat",
            }
            for c in CONCEPTS
        },
    }
    (HERE / "judged.json").write_text(json.dumps(judged, indent=1) + "\n")
    weights = {key: value.half().contiguous() for key, value in probe.state_dict().items()}
    save_file(weights, HERE / "probe.safetensors", metadata={"labels": json.dumps(LABELS)})
    seen = probe.eval().look([picture for picture, _ in held])
    for head in HEADS:
        right = sum(getattr(v, head) == said[head] for v, (_, said) in zip(seen, held, strict=True))
        print(f"{head}: {right / len(held):.3f}")


if __name__ == "__main__":
    main()
