"""SD 2.1 from prompt to picture: v-prediction, OpenCLIP's padding, and the trigger's rows."""

from dataclasses import replace
from pathlib import Path

import torch

from personalq.backend.compare import generate, psnr
from personalq.backend.engine import Engine
from personalq.diffusion.text import encode
from personalq.records import Job, Span

JOB = Job("photo of zwx dog", spans=(Span(9, 12, "trigger", "c"),), steps=4)


def test_it_runs_at_every_precision_and_only_the_trigger_is_protected(tiny_sd21_folder: Path) -> None:
    engine = Engine(tiny_sd21_folder, "cpu", dtype=torch.float32)
    pictures = {p: list(generate(engine, JOB, p))[-1].image for p in ("reference", "taq-w8a8", "taq-w4a8")}
    assert len({picture.tobytes() for picture in pictures.values() if picture}) == 3
    assert psnr(pictures["reference"], pictures["taq-w8a8"]) > 30
    with engine.hold(JOB, "reference") as session:
        pipe = session.pipe
        assert pipe.scheduler.config.prediction_type == "v_prediction" and pipe.tokenizer.pad_token == "!"
        ids = pipe.tokenizer(JOB.prompt, padding="max_length", max_length=77).input_ids
        rows = encode(pipe, JOB.prompt, spans=JOB.spans).protected[1].nonzero().flatten().tolist()
        assert "".join(pipe.tokenizer.convert_ids_to_tokens([ids[row] for row in rows])) == "zwx</w>"
        shout = replace(JOB, prompt="photo of zwx! dog !")  # the padding is a token of its own text
        marked = encode(pipe, shout.prompt, spans=[Span(9, 13, "trigger", "c")]).protected[1]
        assert int(marked.sum()) == 4 and not marked[10:].any()
    engine.close()
