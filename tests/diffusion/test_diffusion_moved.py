"""The rows that a LoRA without a trigger moves are the ones its updates point at."""

from pathlib import Path

import pytest
import torch
from tiny_pipelines import WIDTH, lora, lora_state

from personalq.diffusion.load import Pipeline, load_base
from personalq.diffusion.moved import moved_rows, rows_without_trigger, top_moved
from personalq.diffusion.text import encode
from personalq.records import Checkpoint

LAYERS = ("down_blocks.1.attentions.0", "mid_block.attentions.0")


@pytest.fixture(scope="module")
def pipe(tiny_sd_folder: Path) -> Pipeline:
    return load_base(tiny_sd_folder, "cpu", torch.float32)


def pointing(path: Path, direction: torch.Tensor, seed: int = 0) -> Checkpoint:
    """A LoRA of rank 1 that sees nothing but `direction` [D]."""
    state, drawn = {}, torch.Generator().manual_seed(seed)
    for at, layer in enumerate(LAYERS):
        name = f"unet.{layer}.transformer_blocks.0.attn2.to_{'kv'[at]}"
        state[f"{name}.lora_A.weight"] = direction[None].clone()
        state[f"{name}.lora_B.weight"] = torch.randn(64, 1, generator=drawn)
    return lora(path, state)


def test_scores_are_the_sum_of_both_norms(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    state = lora_state(tiny_sd_folder) | lora_state(tiny_sd_folder, text=True)
    record = lora(tmp_path / "l.safetensors", state)
    embeds = torch.randn(2, 5, WIDTH)
    wanted, relative = torch.zeros(2, 5), torch.zeros(2, 5)
    for name, layer in pipe.unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")) and f"unet.{name}.lora_A.weight" in state:
            delta = state[f"unet.{name}.lora_B.weight"] @ state[f"unet.{name}.lora_A.weight"]
            assert delta.shape == layer.weight.shape
            distance = 0.5 * (embeds @ delta.T).norm(dim=-1)
            wanted += distance
            relative += distance / (embeds @ layer.weight.T).norm(dim=-1)
    assert (wanted > 0).all()
    for flag, expected in ((False, wanted), (True, relative)):
        torch.testing.assert_close(moved_rows(pipe, [(record, -0.5)], embeds, flag), expected, rtol=1e-4, atol=1e-4)


def test_long_rows_do_not_win_for_being_long(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    record = lora(tmp_path / "l.safetensors", lora_state(tiny_sd_folder))
    embeds = torch.randn(1, 5, WIDTH)
    longer = embeds * torch.tensor([1.0, 1, 1, 1, 50])[None, :, None]
    one, other = (moved_rows(pipe, [(record, 1.0)], rows) for rows in (embeds, longer))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert moved_rows(pipe, [(record, 1.0)], longer, relative=False).argmax() == 4


def test_two_loras_that_cancel_move_nothing(pipe: Pipeline, tmp_path: Path) -> None:
    record = pointing(tmp_path / "l.safetensors", torch.randn(WIDTH))
    embeds = torch.randn(1, 5, WIDTH)
    assert moved_rows(pipe, [(record, 1.0)], embeds).min() > 0
    assert moved_rows(pipe, [(record, 1.0), (record, -1.0)], embeds).max() == 0
    assert moved_rows(pipe, [], embeds).max() == 0


def test_the_rows_pointed_at_are_protected(pipe: Pipeline, tmp_path: Path) -> None:
    text = encode(pipe, "photo corgi beach")
    others = torch.cat([text.embeds[1, :2], text.embeds[1, 3:]])
    basis = torch.linalg.svd(others[:20], full_matrices=True).Vh[20:]  # what the rows but the third do not contain
    direction = basis.T @ (basis @ text.embeds[1, 2])
    record = pointing(tmp_path / "l.safetensors", direction / direction.norm())
    mask, mode = rows_without_trigger(pipe, [(record, 1.0)], text, count=1)
    assert mode == "moved rows" and mask.nonzero().tolist() == [[1, 2]]


def test_without_updates_of_the_text_it_is_the_start_token(pipe: Pipeline, tmp_path: Path) -> None:
    name = f"unet.{LAYERS[1]}.transformer_blocks.0.attn1.to_q"
    state = {f"{name}.lora_A.weight": torch.randn(2, 64), f"{name}.lora_B.weight": torch.randn(64, 2)}
    text = encode(pipe, "photo corgi")
    mask, mode = rows_without_trigger(pipe, [(lora(tmp_path / "l.safetensors", state), 1.0)], text)
    assert mode == "start only" and mask.nonzero().tolist() == [[0, 0], [1, 0]]


def test_top_moved_counts_per_sample_and_leaves_still_rows_out() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 5.0, 0.0]])
    assert top_moved(scores, 2).tolist() == [[False, True, False, True], [False, False, True, False]]
    assert top_moved(scores, 9).sum(1).tolist() == [3, 1]
