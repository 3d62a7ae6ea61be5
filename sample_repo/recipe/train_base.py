"""Trains the base model, text encoder and UNet together, from scratch; run again to resume.

    python train_base.py --pictures 400000

The learning rate is constant, then falls linearly over the last 30 % of `--pictures`, so a longer or
shorter total may be chosen while it runs: stop it and start it again with the new number.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from captions import caption, draw_facts
from draw import render
from latents import CHANNELS, PatchPCA, to_tensor
from words import build_tokenizer

RUNS = Path(__file__).parent / "runs"
WIDTH = 128
"""Width of the text encoder and of the UNet's cross-attention."""


def new_models(tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """The text encoder (2 layers) and the UNet (64, 128, 192), freshly initialised."""
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return nn.ModuleDict({"text": text, "unet": unet.to(memory_format=torch.channels_last)})


def new_scheduler() -> DDIMScheduler:
    """Scaled-linear betas rescaled to zero terminal signal-to-noise, v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def loss_on(
    models: nn.ModuleDict, scheduler: DDIMScheduler, latents: Tensor, ids: Tensor, generator: torch.Generator
) -> Tensor:
    """The v-prediction error per sample [B] at uniform random timesteps."""
    noise = torch.randn(latents.shape, generator=generator)
    t = torch.randint(0, 1000, (len(latents),), generator=generator)
    noisy = scheduler.add_noise(latents, noise, t).to(memory_format=torch.channels_last)
    hidden = models["text"](ids).last_hidden_state
    predicted = models["unet"](noisy, t, hidden, return_dict=False)[0]
    return (predicted - scheduler.get_velocity(latents, noise, t)).pow(2).mean((1, 2, 3))


def learning_rate(step: int, total: int, peak: float) -> float:
    """Warm-up over 300 steps, constant, linear to zero over the last 30 %."""
    return peak * min(1, (step + 1) / 300, max(0.0, total - step) / (0.3 * total))


def main() -> None:
    """Train until `--pictures` have been seen, saving to `runs/base.pt` every few minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    tokenizer = build_tokenizer(RUNS / "tokenizer")
    pca = PatchPCA.fitted(Path(__file__).parent / "pca.safetensors")
    models, scheduler = new_models(tokenizer), new_scheduler()
    parameters = list(models.parameters())
    optimizer = torch.optim.AdamW(parameters, args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = [p.detach().clone() for p in parameters]
    step, file = 0, RUNS / "base.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        models.load_state_dict(saved["models"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step = [a.detach() for a in saved["average"]], saved["step"]

    def save() -> None:
        state = {
            "models": models.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
        }
        torch.save(state, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)

    total, recent, started = args.pictures // args.batch, [], time.time()
    with tqdm(total=total, initial=step, unit="step", mininterval=20) as bar:
        while step < total:
            rng = random.Random(f"base {step}")
            facts = [draw_facts(rng) for _ in range(args.batch)]
            words = ["" if rng.random() < 0.1 else caption(rng, f) for f in facts]
            pictures = to_tensor([render(rng, f.subject, f.scene, f.style, f.hue) for f in facts])
            ids = tokenizer(
                words, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
            ).input_ids
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, args.lr)
            generator = torch.Generator().manual_seed(step)
            loss = loss_on(models, scheduler, pca.encode(pictures), ids, generator).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            decay = min(0.999, (step + 1) / (step + 10))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
            recent.append(loss.item())
            bar.update()
            if step % 250 == 0 or step == total:
                line = {"step": step, "loss": sum(recent) / len(recent), "seconds": round(time.time() - started)}
                bar.set_postfix(loss=f"{line['loss']:.4f}")
                with (RUNS / "base.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                recent = []
            if step % 500 == 0 or step == total:
                save()


if __name__ == "__main__":
    main()
