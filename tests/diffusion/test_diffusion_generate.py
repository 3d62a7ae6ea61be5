"""The denoising loop: the pipeline's own numbers, a frame per step, a prompt stop, and errors that say what to do."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, FluxPipeline
from tiny_pipelines import save_flux

from personalq.diffusion.generate import denoise, initial_noise, memory_advice, picture_size
from personalq.diffusion.load import Pipeline, denoiser, load_base
from personalq.diffusion.predict import packed, patch_places, set_timesteps, unpacked
from personalq.diffusion.preview import preview, unscaled
from personalq.diffusion.text import encode
from personalq.errors import GenerationError
from personalq.records import Frame, Job

JOB = Job("photo dog", seed=4, steps=6, width=16, height=16)


@pytest.fixture(scope="module", params=["sd", "sd21", "sdxl", "sd3", "flux"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return load_base(request.getfixturevalue(f"tiny_{request.param}_folder"), "cpu", torch.float32)


def distilled(pipe: Pipeline) -> bool:
    return isinstance(pipe, FluxPipeline)


@pytest.fixture
def calls(pipe: Pipeline) -> Iterator[list[int]]:
    """The batch size of every call of the denoiser."""
    seen: list[int] = []
    hook = denoiser(pipe).register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    yield seen
    hook.remove()


def run(pipe: Pipeline, job: Job) -> list[Frame]:
    noise, generator = initial_noise(pipe, job)
    return list(denoise(pipe, encode(pipe, job.prompt, job.negative), noise, job, "reference", generator))


def its_own(pipe: Pipeline, job: Job, **options: object) -> bytes:
    """The picture that diffusers' own pipeline makes of a job from the same noise."""
    noise, _ = initial_noise(pipe, job)
    options |= {"latents": packed(noise) if distilled(pipe) else noise}
    if not distilled(pipe):
        options["negative_prompt"] = job.negative or None
    return (
        pipe(
            job.prompt,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
            width=job.width,
            height=job.height,
            **options,
        )
        .images[0]
        .tobytes()
    )


def apart(ours: list[Frame], expected: bytes) -> int:
    """The largest difference of two pictures, in grey levels of 255."""
    image = ours[-1].image
    assert image is not None
    return max(abs(a - b) for a, b in zip(image.tobytes(), expected, strict=True))


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("negative", ["", "beach"])
def test_the_picture_is_the_pipelines_own(pipe: Pipeline, guidance: float, negative: str) -> None:
    job = replace(JOB, negative=negative, guidance=guidance)
    assert apart(run(pipe, job), its_own(pipe, job)) <= 1


@pytest.mark.parametrize("dynamic", [True, False])
def test_flow_matching_shifts_its_schedule_as_the_pipeline_does(
    tiny_sd3_folder: Path, tiny_flux_folder: Path, tmp_path: Path, dynamic: bool
) -> None:
    save_flux(tmp_path, guidance=False)
    for folder in (tiny_sd3_folder, tiny_flux_folder, tmp_path):
        pipe = load_base(folder, "cpu", torch.float32)
        pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, use_dynamic_shifting=dynamic, base_shift=0.9)
        job = replace(JOB, width=24)
        expected = its_own(pipe, job)
        sigmas = pipe.scheduler.sigmas.clone()
        assert apart(run(pipe, job), expected) <= 1
        assert torch.allclose(pipe.scheduler.sigmas, sigmas, atol=1e-6)


def test_a_model_without_distilled_guidance_is_told_none(tmp_path: Path) -> None:
    save_flux(tmp_path, guidance=False)
    pipe = load_base(tmp_path, "cpu", torch.float32)
    one, other = (run(pipe, replace(JOB, guidance=guidance))[-1].image for guidance in (1.0, 7.0))
    assert one and other and one.tobytes() == other.tobytes()


def test_patches_are_those_of_the_pipeline(pipe: Pipeline) -> None:
    latents = torch.randn(1, 16, 4, 6)
    if distilled(pipe):
        assert torch.equal(packed(latents), pipe._pack_latents(latents, 1, 16, 4, 6))
        own = pipe._prepare_latent_image_ids(1, 2, 3, "cpu", torch.float32)
        assert torch.equal(patch_places(2, 3).float(), own)
    assert torch.equal(unpacked(packed(latents), 2, 3), latents)


def test_a_stochastic_schedule_is_seeded_and_matches_the_pipeline(pipe: Pipeline) -> None:
    before = pipe.scheduler
    if not hasattr(before, "alphas_cumprod"):
        pytest.skip("an ancestral schedule of noise, for models that predict noise")
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(before.config, rescale_betas_zero_snr=False)
    try:
        job = replace(JOB, seed=9, steps=5)
        _, generator = initial_noise(pipe, job)
        assert apart(run(pipe, job), its_own(pipe, job, generator=generator)) <= 1
    finally:
        pipe.scheduler = before


def test_a_frame_per_step_with_previews_but_not_at_the_end(pipe: Pipeline, calls: list[int]) -> None:
    frames = run(pipe, replace(JOB, steps=9))
    assert [(f.step, f.total) for f in frames] == [(i, 9) for i in range(1, 10)]
    assert [f.step for f in frames if f.image] == [1, 4, 9]
    assert calls == [1 if distilled(pipe) else 2] * 9


def test_without_guidance_only_the_prompt_is_denoised(pipe: Pipeline, calls: list[int]) -> None:
    run(pipe, replace(JOB, steps=3, guidance=1.0))
    assert calls == [1] * 3


def test_the_same_seed_is_the_same_picture_and_another_is_not(pipe: Pipeline) -> None:
    one, again, other = (run(pipe, replace(JOB, seed=seed, steps=4))[-1].image for seed in (1, 1, 2))
    assert one and again and other
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_closing_stops_at_once_and_the_next_run_is_unharmed(pipe: Pipeline, calls: list[int]) -> None:
    job = replace(JOB, steps=8)
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
    own = 256 if distilled(pipe) else 16
    assert picture_size(pipe, Job("x")) == (own, own)
    noise, _ = initial_noise(pipe, Job("x", width=24, height=16))
    assert noise.shape == (1, pipe.vae.config.latent_channels, 8, 12)
    picture = run(pipe, replace(JOB, width=24, steps=2))[-1].image
    assert picture and picture.size == (24, 16)
    for job in (Job("x", width=17), Job("x", height=-8), replace(JOB, steps=0)):
        with pytest.raises(GenerationError, match="choose"):
            run(pipe, job)


def test_sizes_that_patches_or_places_do_not_cover(tiny_sd3_folder: Path, tiny_flux_folder: Path) -> None:
    sd3, flux = (load_base(folder, "cpu", torch.float32) for folder in (tiny_sd3_folder, tiny_flux_folder))
    for pipe, width in ((sd3, 18), (flux, 18), (sd3, 52)):
        with pytest.raises(GenerationError, match="multiples of 4"):
            picture_size(pipe, replace(JOB, width=width))
    assert run(sd3, replace(JOB, width=48, height=48, steps=1))[-1].image


def test_a_preview_of_flow_matching_shows_the_picture_and_not_the_noise(tiny_sd3_folder: Path) -> None:
    """On a straight path the estimate x - sigma v is the same at every step."""
    pipe = load_base(tiny_sd3_folder, "cpu", torch.float32)
    goal = torch.randn(1, 16, 8, 8)

    def straight(module: object, args: tuple[torch.Tensor, ...], output: object) -> tuple[torch.Tensor]:
        return ((noise - goal).expand(2, -1, -1, -1),)

    noise, _ = initial_noise(pipe, JOB)
    hook = pipe.transformer.register_forward_hook(straight)
    frames = run(pipe, replace(JOB, steps=8, seed=4, guidance=2.0))
    hook.remove()
    shown = [frame.image.tobytes() for frame in frames if frame.image]
    assert len(shown) == 3
    assert all(max(abs(a - b) for a, b in zip(one, shown[-1], strict=True)) <= 1 for one in shown)


def test_more_patches_shift_the_schedule_towards_the_noise(tiny_flux_folder: Path) -> None:
    pipe = load_base(tiny_flux_folder, "cpu", torch.float32)
    middle = []
    for side in (8, 64):
        set_timesteps(pipe, 10, torch.zeros(1, 16, side, side))
        middle.append(float(pipe.scheduler.sigmas[5]))
    assert middle[0] < middle[1]


def test_numbers_that_overflow_are_an_error_not_a_black_picture(pipe: Pipeline) -> None:
    job = replace(JOB, steps=4, guidance=float("inf"))
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

    hook = denoiser(pipe).register_forward_hook(fail)
    try:
        with pytest.raises(GenerationError, match=r"Out of memory at 16 x 16 pixels.*smaller"):
            run(pipe, replace(JOB, steps=2))
    finally:
        hook.remove()


def test_other_errors_are_not_called_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("x"):
        raise RuntimeError("shapes cannot be multiplied")


def test_previews_are_small_and_latents_are_unscaled(pipe: Pipeline) -> None:
    channels, config = pipe.vae.config.latent_channels, pipe.vae.config
    assert preview(pipe, torch.zeros(1, channels, 64, 32)).size == (16, 32)
    assert preview(pipe, torch.zeros(1, channels, 8, 8)).size == (16, 16)
    latents = torch.randn(1, channels, 2, 2)
    shift = config.shift_factor or 0.0
    assert torch.allclose(unscaled(pipe.vae, latents), latents / config.scaling_factor + shift)
