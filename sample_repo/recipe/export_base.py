"""Writes the trained parts as the diffusers folder `bases/tiny-sd`, in fp16.

python export_base.py
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from train_base import RUNS, new_models, new_scheduler
from train_vae import new_vae
from words import build_tokenizer

BASE = Path(__file__).parent.parent / "bases" / "tiny-sd"


def averaged(part: nn.Module, average: list[torch.Tensor]) -> None:
    """Put the averaged weights into the module."""
    for parameter, value in zip(part.parameters(), average, strict=True):
        parameter.data.copy_(value)


def main() -> None:
    """Assemble the pipeline from `runs/` and save it."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    tokenizer, vae = build_tokenizer(RUNS / "tokenizer"), new_vae()
    models = new_models(tokenizer)
    averaged(models, torch.load(RUNS / "base.pt", weights_only=True)["average"])
    for name, part in (
        ("decoder", nn.ModuleList([vae.decoder, vae.post_quant_conv])),
        ("encoder", nn.ModuleList([vae.encoder, vae.quant_conv])),
    ):
        averaged(part, torch.load(RUNS / f"vae_{name}.pt", weights_only=True)["average"])
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=models["text"],
        tokenizer=tokenizer,
        unet=models["unet"],
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(BASE, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(BASE)


if __name__ == "__main__":
    main()
