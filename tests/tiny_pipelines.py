"""Small random pipelines of every family, saved as diffusers folders, and checkpoints that fit them."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from personalq.records import Checkpoint

WIDTH = 64
WIDE = 160
"""Width of the T5 encoder: more than two CLIP encoders side by side, as in SD3."""
WORDS = ("dog", "photo", "beach", "bear", "corgi")


def tokenizer() -> CLIPTokenizer:
    """Bytes, and a few whole words."""
    letters = sorted(ByteLevel.alphabet())
    pieces, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        left = word[0]
        for i, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if i == len(word) - 1 else "")
            if (left, right) not in merges:
                merges.append((left, right))
                pieces.append(left + right)
            left += right
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab, merges, model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    """Letters, and a few whole words; a word that is in several pieces begins with the piece "▁"."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -3.0), *((f"▁{word}", -2.0) for word in WORDS)]
    pieces += [(chr(code), -4.0) for code in range(33, 127)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def t5_encoder(words: T5TokenizerFast) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words), d_model=WIDE, d_kv=16, d_ff=WIDE, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def text_encoder(words: CLIPTokenizer, width: int, projected: bool = False) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=WIDTH,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def unet(cross: int, **extra: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(64, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross, attention_head_dim=4, norm_num_groups=16, **extra,
    ).eval()  # fmt: skip


def parts() -> dict[str, object]:
    vae = AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8, sample_size=16,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, steps_offset=1,
    )  # fmt: skip
    return {"vae": vae.eval(), "scheduler": scheduler}


def save_sd(folder: Path) -> None:
    """An SD 1.5-shaped pipeline: 16 px pictures, latents 4 x 8 x 8."""
    torch.manual_seed(0)
    words = tokenizer()
    StableDiffusionPipeline(
        **parts(), tokenizer=words, text_encoder=text_encoder(words, WIDTH), unet=unet(WIDTH),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def save_sdxl(folder: Path) -> None:
    """An SDXL-shaped pipeline: two text encoders, pooled text and sizes, linear projections."""
    torch.manual_seed(1)
    words = tokenizer()
    denoiser = unet(
        2 * WIDTH, use_linear_projection=True, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=6 * 32 + WIDTH,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        **parts(), tokenizer=words, tokenizer_2=tokenizer(), text_encoder=text_encoder(words, WIDTH),
        text_encoder_2=text_encoder(words, WIDTH, projected=True), unet=denoiser, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def save_sd21(folder: Path) -> None:
    """An SD 2.1-shaped pipeline: OpenCLIP's activation and padding, linear projections, heads of one width."""
    torch.manual_seed(5)
    words = tokenizer()
    words.pad_token = "!"
    encoder = text_encoder(words, WIDTH)
    encoder.config.hidden_act = "gelu"
    denoiser = unet(WIDTH, use_linear_projection=True, upcast_attention=True)
    StableDiffusionPipeline(
        **parts(), tokenizer=words, text_encoder=type(encoder)(encoder.config).eval(), unet=denoiser,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def flow_parts(**schedule: object) -> dict[str, object]:
    """An autoencoder with a shift, as SD3 and FLUX have it, and a flow-matching schedule."""
    vae = AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=16, norm_num_groups=8, sample_size=16,
        scaling_factor=1.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    return {"vae": vae.eval(), "scheduler": FlowMatchEulerDiscreteScheduler(**schedule)}


def sd3_transformer(**extra: object) -> SD3Transformer2DModel:
    """Three blocks: the first with a second attention over the picture alone, the last without a text stream."""
    options = {"dual_attention_layers": (0,), "qk_norm": "rms_norm", **extra}
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=3, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=WIDE, caption_projection_dim=64, pooled_projection_dim=2 * WIDTH, out_channels=16,
        pos_embed_max_size=12, **options,
    ).eval()  # fmt: skip


def flux_transformer(guidance: bool = True, double: int = 2) -> FluxTransformer2DModel:
    """Two double and two single blocks."""
    return FluxTransformer2DModel(
        in_channels=64, num_layers=double, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=WIDE, pooled_projection_dim=WIDTH, guidance_embeds=guidance, axes_dims_rope=(8, 12, 12),
    ).eval()  # fmt: skip


def save_sd3(folder: Path) -> None:
    """An SD 3.5-shaped pipeline: two CLIP encoders and a T5, 16 px pictures, latents 16 x 8 x 8."""
    torch.manual_seed(6)
    words, pieces = tokenizer(), t5_tokenizer()
    StableDiffusion3Pipeline(
        **flow_parts(shift=3.0), tokenizer=words, tokenizer_2=tokenizer(), tokenizer_3=pieces,
        text_encoder=text_encoder(words, WIDTH, projected=True), transformer=sd3_transformer(),
        text_encoder_2=text_encoder(words, WIDTH, projected=True), text_encoder_3=t5_encoder(pieces),
    ).save_pretrained(folder)  # fmt: skip


def save_flux(folder: Path, guidance: bool = True) -> None:
    """A FLUX-shaped pipeline: pooled CLIP, a T5 text stream, latents packed two by two; guidance distilled or none."""
    torch.manual_seed(7)
    words, pieces = tokenizer(), t5_tokenizer()
    FluxPipeline(
        **flow_parts(use_dynamic_shifting=guidance, shift=3.0 if guidance else 1.0), tokenizer=words,
        tokenizer_2=pieces, text_encoder=text_encoder(words, WIDTH), text_encoder_2=t5_encoder(pieces),
        transformer=flux_transformer(guidance),
    ).save_pretrained(folder)  # fmt: skip


def lora_state(folder: Path, rank: int = 4, seed: int = 2, text: bool = False) -> dict[str, torch.Tensor]:
    """Random LoRA weights for attention, feed-forward and convolutions of the UNet in `folder`, in PEFT naming."""
    generator, state = torch.Generator().manual_seed(seed), {}
    model = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    targets = {f"unet.{n}": m for n, m in model.named_modules() if n.endswith(("to_q", "to_k", "to_out.0", "conv1"))}
    if text:
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
        names = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
        targets |= {f"text_encoder.{n}": m for n, m in encoder.named_modules() if n.endswith(names)}
    for name, module in targets.items():
        out, into, *kernel = module.weight.shape
        state[f"{name}.lora_A.weight"] = torch.randn((rank, into, *kernel), generator=generator) * 0.3
        state[f"{name}.lora_B.weight"] = torch.randn((out, rank, *[1 for _ in kernel]), generator=generator) * 0.3
    return state


def joint_lora_state(model: torch.nn.Module, rank: int = 4, seed: int = 2) -> dict[str, torch.Tensor]:
    """Random LoRA weights for the attention of an SD3 or FLUX transformer, in PEFT naming."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, module in model.named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "to_out.0", "proj_mlp")):
            out, into = module.weight.shape
            state[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator) * 0.3
            state[f"transformer.{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.3
    return state


def kohya_flux_state(outputs: int = 192, width: int = 64, rank: int = 4) -> dict[str, torch.Tensor]:
    """Random LoRA weights for a FLUX transformer in kohya's naming, where queries, keys and values are one layer."""
    generator, state = torch.Generator().manual_seed(4), {}
    for name in ("double_blocks_0_img_attn_qkv", "double_blocks_1_txt_attn_qkv"):
        state[f"lora_unet_{name}.lora_down.weight"] = torch.randn(rank, width, generator=generator) * 0.3
        state[f"lora_unet_{name}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator) * 0.3
        state[f"lora_unet_{name}.alpha"] = torch.tensor(rank / 2)
    return state


def kohya(state: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """The same weights as kohya's trainer names them; alpha / rank scales them."""
    renamed = {}
    for key, value in state.items():
        layer, part = key.split(".lora_")[0], key.split(".lora_")[1][0]
        flat = layer.replace("text_encoder.text_model", "text_encoder").replace("text_encoder.", "te_text_model_", 1)
        flat = "lora_" + flat.replace(".", "_")
        renamed[f"{flat}.lora_{'down' if part == 'A' else 'up'}.weight"] = value
        renamed[f"{flat}.alpha"] = torch.tensor(alpha)
    return renamed


def lora(path: Path, state: dict[str, torch.Tensor], **facts: object) -> Checkpoint:
    """`state` saved at `path`, as a checkpoint record."""
    save_file(state, path)
    return Checkpoint(id=path.stem, name=path.stem, files=(str(path),), **facts)


def frozen_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers by name."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
