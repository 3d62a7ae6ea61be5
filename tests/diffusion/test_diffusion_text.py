"""Which token rows are protected: every subword of every occurrence, in both tokenizers, up to the cut."""

from pathlib import Path

import pytest
import torch
from tiny_pipelines import WIDE, WIDTH, lora

from personalq.diffusion.attach import attach, detach
from personalq.diffusion.load import Pipeline, load_base
from personalq.diffusion.text import encode, occurrences, span_mask
from personalq.records import Checkpoint, Protected, Span


@pytest.fixture(scope="module")
def pipe(tiny_sd_folder: Path) -> Pipeline:
    return load_base(tiny_sd_folder, "cpu", torch.float32)


def span(prompt: str, piece: str, start: int = 0) -> Span:
    at = prompt.index(piece, start)
    return Span(at, at + len(piece), "trigger", "c")


def protected_text(pipe: Pipeline, prompt: str, *spans: Span) -> tuple[str, list[int]]:
    """The protected subwords joined, and their rows."""
    text = encode(pipe, prompt, spans=spans)
    assert not text.protected[0].any()
    rows = text.protected[1].nonzero().flatten().tolist()
    ids = pipe.tokenizer(prompt).input_ids
    pieces = pipe.tokenizer.convert_ids_to_tokens([ids[row] for row in rows])
    assert text.protected_count == len(rows)
    return "".join(pieces).replace("</w>", ""), rows


def test_span_mask_takes_every_overlapping_token_and_no_empty_one() -> None:
    offsets = [(0, 0), (0, 3), (3, 5), (5, 6), (7, 9), (0, 0)]
    assert span_mask(offsets, [(4, 8)]) == [False, False, True, True, True, False]
    assert not any(span_mask(offsets, [])) and not any(span_mask(offsets, [(6, 7), (3, 3)]))


def test_occurrences_are_exact_and_whole_words() -> None:
    text = "sks dog, sksx, Sks, xsks and sks. <a>b<a>"
    assert occurrences(text, [(0, 3)]) == [(0, 3), (29, 32)]
    assert occurrences(text, [(34, 37)]) == [(34, 37), (38, 41)]
    assert occurrences("dogsled", [(0, 3)]) == [(0, 3)]  # a span given is kept whatever surrounds it


def test_a_trigger_of_many_subwords_is_protected_everywhere(pipe: Pipeline) -> None:
    prompt = "photo of <bear-v4> dog, another <bear-v4>, a bear and dog"
    joined, rows = protected_text(pipe, prompt, span(prompt, "<bear-v4>"))
    assert joined == "<bear-v4><bear-v4>"
    assert len(rows) > 4 and 0 not in rows


def test_two_spans_and_unicode_before_them(pipe: Pipeline) -> None:
    prompt = "дом 🐻 zwx dog   on the qvb beach"
    joined, _ = protected_text(pipe, prompt, span(prompt, "zwx"), span(prompt, "qvb"))
    assert joined == "zwxqvb"


def test_the_start_token_stands_in_for_a_trigger_that_is_not_there(pipe: Pipeline) -> None:
    assert encode(pipe, "photo dog", rows=()).protected_count == 0
    assert encode(pipe, "photo dog").protected.nonzero().tolist() == [[0, 0], [1, 0]]
    noun = Span(6, 9, "concept", "c")
    assert encode(pipe, "photo dog", spans=[noun]).protected.nonzero().tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("trigger", "start"), [[0, 0], [1, 0], [1, 2], [1, 3], [1, 4]]),
        (("noun",), [[1, 5]]),
        (("end",), [[1, 7]]),
        (("suffix",), [[1, row] for row in range(2, 77)]),
        (("all",), [[half, row] for half in (0, 1) for row in range(77)]),
        ((), []),
    ],
)
def test_other_rows_can_be_protected(pipe: Pipeline, rows: tuple[Protected, ...], expected: list[list[int]]) -> None:
    prompt = "photo zwx dog beach"  # start, photo, z, w, x, dog, beach, end
    spans = [span(prompt, "zwx"), Span(10, 13, "concept", "c")]
    assert encode(pipe, prompt, spans=spans, rows=rows).protected.nonzero().tolist() == expected


def test_random_rows_are_as_many_as_the_triggers_and_never_its_own(pipe: Pipeline) -> None:
    prompt = "photo zwx dog beach corgi bear"
    spans = [span(prompt, "zwx")]
    drawn = [encode(pipe, prompt, spans=spans, rows=("random",)).protected for _ in range(2)]
    assert torch.equal(*drawn)
    rows = drawn[0][1].nonzero().flatten().tolist()
    assert len(rows) == 3 and not {0, 2, 3, 4} & set(rows) and max(rows) < 9 and not drawn[0][0].any()


def test_a_trigger_past_the_end_is_reported(pipe: Pipeline) -> None:
    prompt = "zwx " + "dog " * 72 + "zwx zwx zwx"
    text = encode(pipe, prompt, spans=[span(prompt, "zwx")])
    whole = encode(pipe, "zwx dog", spans=[Span(0, 3, "trigger", "c")])
    assert whole.protected_count == 3 and not whole.truncated and whole.warning is None
    assert text.truncated and text.protected_count + text.protected_lost == 4 * whole.protected_count
    assert text.protected_lost > 0 and text.warning and str(text.protected_lost) in text.warning
    cut_elsewhere = encode(pipe, "zwx " + "dog " * 90, spans=[Span(0, 3, "trigger", "c")])
    assert cut_elsewhere.truncated and cut_elsewhere.warning is None


def test_embeddings_are_the_pipelines_own_with_the_unconditional_row_first(pipe: Pipeline) -> None:
    positive, negative = pipe.encode_prompt("photo dog", "cpu", 1, True, negative_prompt="beach")
    text = encode(pipe, "photo dog", "beach")
    assert torch.equal(text.embeds, torch.cat([negative, positive])) and text.pooled is None
    assert torch.equal(text.rows(False).embeds, positive) and text.rows(True) is text


@pytest.mark.parametrize("vectors", [1, 4])
def test_every_vector_of_a_textual_inversion_is_protected(pipe: Pipeline, tmp_path: Path, vectors: int) -> None:
    state = {"<bear-v4>": torch.randn(vectors, WIDTH)}
    record = lora(tmp_path / "t.safetensors", state, kind="ti", triggers=("<bear-v4>",))
    assert isinstance(record, Checkpoint)
    prompt = "photo of <bear-v4> dog and <bear-v4> qvb"
    attached = attach(pipe, [(record, 1.0)])
    try:
        text = encode(pipe, prompt, spans=[span(prompt, "<bear-v4>"), span(prompt, "qvb")])
        written = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
        ids = torch.tensor(pipe.tokenizer(written, padding="max_length", max_length=77).input_ids)
        added = torch.isin(ids, torch.tensor(pipe.tokenizer.convert_tokens_to_ids([*pipe.tokenizer.get_added_vocab()])))
        special = torch.isin(ids, torch.tensor([pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id]))
        assert (added & ~special).sum() == 2 * vectors
        assert text.protected[1][added & ~special].all()
        assert text.protected_count == 2 * vectors + 3  # and the three letters of the other trigger
    finally:
        detach(pipe, attached)


def test_sdxl_has_pooled_text_and_one_mask_for_both_tokenizers(tiny_sdxl_folder: Path) -> None:
    big = load_base(tiny_sdxl_folder, "cpu", torch.float32)
    prompt = "photo of zwx dog"
    text = encode(big, prompt, spans=[span(prompt, "zwx")])
    assert text.embeds.shape == (2, 77, 2 * WIDTH) and text.pooled is not None and text.pooled.shape == (2, WIDTH)
    assert text.protected_count == 3 and not text.protected[0].any()


# --- SD3 and FLUX: CLIP and T5 ------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd3(tiny_sd3_folder: Path) -> Pipeline:
    return load_base(tiny_sd3_folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def flux(tiny_flux_folder: Path) -> Pipeline:
    return load_base(tiny_flux_folder, "cpu", torch.float32)


def t5_pieces(tokenizer: object, prompt: str, rows: list[int]) -> str:
    """The pieces in these rows of T5 alone, joined."""
    ids = tokenizer(prompt).input_ids
    return "".join(tokenizer.convert_ids_to_tokens([ids[row] for row in rows]))


def test_sd3_protects_a_trigger_in_clips_rows_and_in_t5s(sd3: Pipeline) -> None:
    prompt = "photo of zwx dog, zwx beach"
    text = encode(sd3, prompt, spans=[span(prompt, "zwx")])
    assert text.embeds.shape == (2, 77 + 256, WIDE) and text.pooled is not None
    assert text.pooled.shape == (2, 2 * WIDTH) and text.protected.shape == (2, 333)
    assert not text.protected[0].any() and text.warning is None
    clip, t5 = text.protected[1, :77], text.protected[1, 77:].nonzero().flatten().tolist()
    assert clip.sum() == 6 and not clip[0]
    assert t5_pieces(sd3.tokenizer_3, prompt, t5) == "▁zwx▁zwx"


def test_sd3_embeddings_are_the_pipelines_own(sd3: Pipeline) -> None:
    with torch.no_grad():
        positive, negative, pooled, pooled_negative = sd3.encode_prompt(
            "dog", None, None, "cpu", negative_prompt="bear"
        )
    text = encode(sd3, "dog", "bear")
    assert torch.equal(text.embeds, torch.cat([negative, positive]))
    assert text.pooled is not None and torch.equal(text.pooled, torch.cat([pooled_negative, pooled]))
    assert torch.equal(text.rows(False).embeds, positive)


def test_flux_protects_t5s_rows_and_reads_no_negative(flux: Pipeline) -> None:
    prompt = "photo of <bear-v4> dog, another <bear-v4>"
    text = encode(flux, prompt, spans=[span(prompt, "<bear-v4>")])
    with torch.no_grad():
        embeds, pooled, _ = flux.encode_prompt(prompt, device="cpu")
    assert torch.equal(text.embeds, embeds) and text.pooled is not None and torch.equal(text.pooled, pooled)
    assert text.embeds.shape == (1, 512, WIDE) and text.protected.shape == (1, 512)
    rows = text.protected[0].nonzero().flatten().tolist()
    assert t5_pieces(flux.tokenizer_2, prompt, rows) == "▁<bear-v4>▁<bear-v4>"
    assert text.rows(True) is text and text.rows(False).embeds.shape == text.embeds.shape
    assert "negative" in (encode(flux, prompt, "beach").warning or "") and text.warning is None


def test_each_encoder_says_what_it_cut_off(sd3: Pipeline, flux: Pipeline) -> None:
    prompt = "dog " * 100 + "zwx dog"
    late = [span(prompt, "zwx")]
    text = encode(sd3, prompt, spans=late)
    assert text.truncated and not text.protected[1, :77].any() and text.protected[1, 77:].sum() == 4
    assert text.warning and "CLIP (77 tokens): 3" in text.warning and "T5" not in text.warning
    flat = encode(flux, prompt, spans=late)
    assert flat.protected.sum() == 4 and flat.warning and "CLIP (77 tokens)" in flat.warning
    prompt = "dog " * 300 + "zwx dog"
    assert "T5 (256 tokens): 4" in (encode(sd3, prompt, spans=[span(prompt, "zwx")]).warning or "")
    prompt = "dog " * 600 + "zwx dog"
    lost = encode(flux, prompt, spans=[span(prompt, "zwx")])
    assert "T5 (512 tokens): 4" in (lost.warning or "") and lost.protected_count == 0 and lost.protected_lost == 4


def test_t5_has_no_start_token(sd3: Pipeline, flux: Pipeline) -> None:
    assert encode(sd3, "photo dog").protected.nonzero().tolist() == [[0, 0], [1, 0]]
    assert encode(flux, "photo dog").protected_count == 0
    assert encode(flux, "photo dog", rows=("all",)).protected.all()
    assert encode(flux, "photo dog", rows=("end",)).protected.nonzero().tolist() == [[0, 2]]


def test_sd3_without_its_t5_reads_clip_alone(tiny_sd3_folder: Path) -> None:
    small = load_base(tiny_sd3_folder, "cpu", torch.float32)
    small.text_encoder_3 = small.tokenizer_3 = None
    text = encode(small, "photo of zwx dog", spans=[Span(9, 12, "trigger", "c")])
    assert text.protected.shape == (2, 333) and text.protected_count == 3 and not text.embeds[:, 77:].any()
