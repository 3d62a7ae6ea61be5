"""The ways to hold a denoiser, by name: the reference and every recipe. It knows no files and no residence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from personalq.diffusion.attention import FullPrecision, PromptCache, TextAttention, prompt_attention
from personalq.diffusion.joint import FullJoint, Joint, JointText, joint_attention
from personalq.diffusion.lazy import Materialize, fill
from personalq.diffusion.text import TextEmbeddings
from personalq.errors import QuantizationError
from personalq.quant.apply import Report, quantize_unet
from personalq.quant.joint import TriggerAwareJoint
from personalq.quant.recipe import RECIPES
from personalq.quant.sidecar import read_sidecar
from personalq.quant.trigger import TriggerAware
from personalq.records import Job, Protected, Recipe

if TYPE_CHECKING:
    from personalq.backend.engine import Session


@dataclass(frozen=True)
class Variant:
    """One way to hold the denoiser, and to attend to the text with it."""

    name: str
    quantize: Callable[[nn.Module], Report] | None
    """Packs a whole 16-bit denoiser in place; None follows `recipe`."""
    text: TextAttention[Any]
    protect: tuple[Protected, ...] = ()
    mask: Callable[[Session, TextEmbeddings, Job], Tensor] | None = None
    """Chooses the protected rows itself, a mask of the shape of the text's own; None follows `protect`."""
    joint: JointText[Any] | None = None
    """Attends to picture and text together, in SD3 and FLUX; None is not built for those."""
    recipe: Recipe | None = None
    """How each layer is packed as it is read; None leaves all as they are."""
    stored: Path | None = None
    """The folder where the base's denoiser lies packed already."""
    merged: tuple[str, ...] = ()
    """Ids of the checkpoints that were folded into what is stored."""

    @property
    def packs(self) -> bool:
        """Whether the denoiser is held in another form than its own."""
        return self.quantize is not None or self.recipe is not None

    def pack(self, denoiser: nn.Module, materialize: Materialize) -> Report | None:
        """Fill an empty denoiser and pack it, each layer as it is read where the variant can; None if not packed.

        Raises ModelError or QuantizationError.
        """
        if self.recipe is not None and self.quantize is None:
            return quantize_unet(denoiser, self.recipe, materialize)
        fill(denoiser, materialize)
        return self.quantize(denoiser) if self.quantize else None

    def attention(
        self, denoiser: nn.Module, protected: Tensor, release: bool = False
    ) -> AbstractContextManager[PromptCache[Any] | Joint[Any]]:
        """Let a denoiser attend to one prompt as this variant does, until the context is left.

        `protected` [B, L] bool has the batch of the denoising steps. With `release`, a UNet's text projections wait in
        host memory while they are not needed. Raises QuantizationError when the variant is not
        built for the denoiser's kind.
        """
        if isinstance(denoiser, UNet2DConditionModel):
            blocked = self.packs and protected.device.type == "cpu"
            return prompt_attention(denoiser, self.text, protected, blocked, release)
        if self.joint is None:
            raise QuantizationError(
                f"{self.name} is not built for SD3 and FLUX: choose another, or an SD or SDXL base."
            )
        return joint_attention(denoiser, self.joint, protected)


def variant_from(recipe: Recipe) -> Variant:
    """The variant that a recipe describes. Raises QuantizationError for formats that are not built."""
    return Variant(
        recipe.name, None, TriggerAware(recipe), recipe.protect, joint=TriggerAwareJoint(recipe), recipe=recipe
    )


def stored_variant(folder: Path) -> Variant:
    """The variant of a stored denoiser, under its recipe's name.

    Raises QuantizationError when the folder's description is damaged, or the recipe has formats that are not built.
    """
    sidecar = read_sidecar(folder)
    merged = sidecar.provenance.calibration.get(MERGED)
    ids = tuple(map(str, merged)) if isinstance(merged, list | tuple) else ()
    return replace(variant_from(sidecar.recipe), stored=folder, merged=ids)


MERGED = "merged"
"""Where a stored denoiser's provenance names the checkpoints folded into it."""

REFERENCE = Variant("reference", None, FullPrecision(), joint=FullJoint())
VARIANTS: dict[str, Variant] = {REFERENCE.name: REFERENCE} | {n: variant_from(r) for n, r in RECIPES.items()}


def variant_named(name: str, variants: Mapping[str, Variant] = VARIANTS) -> Variant:
    """The variant called `name`. Raises QuantizationError when there is none."""
    try:
        return variants[name]
    except KeyError:
        raise QuantizationError(f"Unknown precision {name!r}: choose one of {', '.join(variants)}.") from None
