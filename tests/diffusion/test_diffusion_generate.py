"""The denoising loop: the pipeline's own numbers, a frame per step, a prompt stop, and errors that say what to do."""

from collections.abc import Iterator

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from personalq.diffusion.generate import denoise, initial_noise, memory_advice, picture_size
from personalq.diffusion.load import Pipeline, load_base
from personalq.diffusion.preview import preview, unscaled
from personalq.diffusion.text import encode
from personalq.errors import GenerationError
from personalq.records import Frame, Job


@pytest.fixture(scope="module", params=["tiny_sd_folder", "tiny_sdxl_folder"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return load_base(request.getfixturevalue(request.param), "cpu", torch.float32)


@pytest.fixture
def calls(pipe: Pipeline) -> Iterator[list[int]]:
    """The batch size of every call of the denoiser."""
    seen: list[int] = []
    hook = pipe.unet.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    yield seen
    hook.remove()


def run(pipe: Pipeline, job: Job) -> list[Frame]:
    noise, generator = initial_noise(pipe, job)
    return list(denoise(pipe, encode(pipe, job.prompt, job.negative), noise, job, "reference", generator))


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("negative", ["", "beach"])
def test_the_picture_is_the_pipelines_own(pipe: Pipeline, guidance: float, negative: str) -> None:
    job = Job("photo dog", negative, seed=4, steps=6, guidance=guidance)
    noise, _ = initial_noise(pipe, job)
    expected = pipe(
        job.prompt, negative_prompt=negative or None, num_inference_steps=6, guidance_scale=guidance, latents=noise
    ).images[0]
    ours = run(pipe, job)[-1].image
    assert ours is not None and ours.size == expected.size
    worst = max(abs(a - b) for a, b in zip(ours.tobytes(), expected.tobytes(), strict=True))
    assert worst <= 1


def test_a_stochastic_schedule_is_seeded_and_matches_the_pipeline(pipe: Pipeline) -> None:
    before = pipe.scheduler
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(before.config, rescale_betas_zero_snr=False)
    try:
        job = Job("photo dog", seed=9, steps=5)
        noise, generator = initial_noise(pipe, job)
        expected = pipe(job.prompt, num_inference_steps=5, guidance_scale=3.5, latents=noise, generator=generator)
        ours = run(pipe, job)[-1].image
        assert ours is not None
        pairs = zip(ours.tobytes(), expected.images[0].tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1
    finally:
        pipe.scheduler = before


def test_a_frame_per_step_with_previews_but_not_at_the_end(pipe: Pipeline, calls: list[int]) -> None:
    frames = run(pipe, Job("photo dog", steps=9))
    assert [(f.step, f.total) for f in frames] == [(i, 9) for i in range(1, 10)]
    assert [f.step for f in frames if f.image] == [1, 4, 9]
    assert calls == [2] * 9


def test_without_guidance_only_the_prompt_is_denoised(pipe: Pipeline, calls: list[int]) -> None:
    run(pipe, Job("photo dog", steps=3, guidance=1.0))
    assert calls == [1] * 3


def test_the_same_seed_is_the_same_picture_and_another_is_not(pipe: Pipeline) -> None:
    one, again, other = (run(pipe, Job("photo dog", seed=seed, steps=4))[-1].image for seed in (1, 1, 2))
    assert one and again and other
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_closing_stops_at_once_and_the_next_run_is_unharmed(pipe: Pipeline, calls: list[int]) -> None:
    job = Job("photo dog", steps=8)
    expected = run(pipe, job)[-1].image
    calls.clear()
    noise, _ = initial_noise(pipe, job)
    frames = denoise(pipe, encode(pipe, job.prompt), noise, job, "reference")
    next(frames), next(frames)
    frames.close()
    assert len(calls) == 2
    after = run(pipe, job)[-1].image
    assert expected and after and expected.tobytes() == after.tobytes()


def test_sizes(pipe: Pipeline) -> None:
    assert picture_size(pipe, Job("x")) == (16, 16)
    noise, _ = initial_noise(pipe, Job("x", width=24, height=16))
    assert noise.shape == (1, 4, 8, 12)
    picture = run(pipe, Job("photo dog", width=24, height=16, steps=2))[-1].image
    assert picture and picture.size == (24, 16)
    for job in (Job("x", width=17), Job("x", height=-8), Job("x", steps=0)):
        with pytest.raises(GenerationError, match="choose"):
            run(pipe, job)


def test_numbers_that_overflow_are_an_error_not_a_black_picture(pipe: Pipeline) -> None:
    job = Job("photo dog", steps=4, guidance=float("inf"))
    with pytest.raises(GenerationError, match=r"Step 1 .*not finite"):
        run(pipe, job)


@pytest.mark.parametrize(
    "raised",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_running_out_of_memory_is_explained(pipe: Pipeline, raised: Exception) -> None:
    def fail(*_: object) -> None:
        raise raised

    hook = pipe.unet.mid_block.register_forward_hook(fail)
    try:
        with pytest.raises(GenerationError, match=r"Out of memory at 16 x 16 pixels.*smaller"):
            run(pipe, Job("photo dog", steps=2))
    finally:
        hook.remove()


def test_other_errors_are_not_called_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("x"):
        raise RuntimeError("shapes cannot be multiplied")


def test_previews_are_small_and_latents_are_unscaled(pipe: Pipeline) -> None:
    assert preview(pipe, torch.zeros(1, 4, 64, 32)).size == (16, 32)
    assert preview(pipe, torch.zeros(1, 4, 8, 8)).size == (16, 16)
    latents = torch.randn(1, 4, 2, 2)
    factor = pipe.vae.config.scaling_factor
    assert torch.allclose(unscaled(pipe.vae, latents), latents / factor)
