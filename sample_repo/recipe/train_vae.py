"""Trains the autoencoder around the fixed latent space; run again to resume.

    python train_vae.py --part decoder --pictures 60000
    python train_vae.py --part encoder --pictures 20000

The decoder learns pictures from the patch-PCA latents (`latents.py`), slightly noised as a sampler
leaves them; the encoder learns to give those latents. Neither ever sees the other.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from latents import CHANNELS, PatchPCA, batch

RUNS = Path(__file__).parent / "runs"


def new_vae() -> AutoencoderKL:
    """Stable Diffusion's autoencoder, 8 × smaller each way, 16 latent channels, narrow."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=96,
        scaling_factor=1.0,
    )


def decoder_loss(vae: AutoencoderKL, pictures: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Absolute error plus the error of horizontal and vertical differences, which keeps edges sharp."""
    noised = latents + 0.03 * torch.randn(latents.shape, generator=generator)
    drawn = vae.decode(noised, return_dict=False)[0]
    error = drawn - pictures
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.pow(2).mean() + 0.5 * edges


def encoder_loss(vae: AutoencoderKL, pictures: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of the mean, and of the log-variance to a constant: the encoding is certain."""
    moments = vae.encode(pictures).latent_dist
    return (moments.mean - latents).pow(2).mean() + 1e-3 * (moments.logvar + 10).pow(2).mean()


@torch.no_grad()
def quality(vae: AutoencoderKL, pca: PatchPCA, part: str) -> float:
    """PSNR in dB on 64 held-out renders of the decoder, the linear inverse, or encoder then linear inverse."""
    pictures = batch(random.Random("vae held out"), 64)
    latents = pca.encode(pictures)
    if part == "encoder":
        drawn = pca.decode(vae.encode(pictures).latent_dist.mean)
    else:
        drawn = vae.decode(latents, return_dict=False)[0] if part == "decoder" else pca.decode(latents)
    return 10 * math.log10(4 / (drawn.clamp(-1, 1) - pictures).pow(2).mean().item())


def main() -> None:
    """Train one part until `--pictures` have been seen, saving to `runs/vae_PART.pt`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("decoder", "encoder"), default="decoder")
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    pca, vae = PatchPCA.fitted(Path(__file__).parent / "pca.safetensors"), new_vae()
    part: nn.Module = nn.ModuleList(
        [vae.decoder, vae.post_quant_conv] if args.part == "decoder" else [vae.encoder, vae.quant_conv]
    ).to(memory_format=torch.channels_last)
    loss_of = decoder_loss if args.part == "decoder" else encoder_loss
    parameters = list(part.parameters())
    optimizer = torch.optim.AdamW(parameters, args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = [p.detach().clone() for p in parameters]
    step, file = 0, RUNS / f"vae_{args.part}.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        part.load_state_dict(saved["part"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step = [a.detach() for a in saved["average"]], saved["step"]

    total, started, recent = args.pictures // args.batch, time.time(), []
    with tqdm(total=total, initial=step, unit="step", mininterval=20) as bar:
        while step < total:
            pictures = batch(random.Random(f"{args.part} {step}"), args.batch)
            latents = pca.encode(pictures)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1, (step + 1) / 100, (total - step) / (0.4 * total))
            loss = loss_of(vae, pictures, latents, torch.Generator().manual_seed(step))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.998, (step + 1) / (step + 10)))
            recent.append(loss.item())
            bar.update()
            if step % 200 == 0 or step == total:
                live = [p.detach().clone() for p in parameters]
                for p, a in zip(parameters, average, strict=True):
                    p.data.copy_(a)
                line = {"step": step, "loss": sum(recent) / len(recent), "psnr": quality(vae, pca, args.part)}
                for p, a in zip(parameters, live, strict=True):
                    p.data.copy_(a)
                line |= {"linear": quality(vae, pca, "linear"), "seconds": round(time.time() - started)}
                recent = []
                bar.set_postfix(psnr=f"{line['psnr']:.2f}")
                with (RUNS / f"vae_{args.part}.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                state = {"part": part.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state | {"average": average, "step": step}, file.with_suffix(".tmp"))
                file.with_suffix(".tmp").replace(file)


if __name__ == "__main__":
    main()
