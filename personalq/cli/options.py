"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SOURCES = "Folder of checkpoints, catalog.jsonl, hub:owner/name, hub:collection/owner/slug or hub:user/NAME."
Repo = Annotated[str | None, typer.Option("--repo", help=SOURCES)]
Base = Annotated[str | None, typer.Option("--base", help="Base model: a diffusers folder or a Hub id.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the initial noise.")]
Steps = Annotated[int, typer.Option(min=1, max=200, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option(min=0, max=30, help="Classifier-free guidance scale.")]

RerankerName = Annotated[str | None, typer.Option("--reranker", help="embedded, chat, causal or cross-encoder.")]
LlmUrl = Annotated[str | None, typer.Option(help="chat: base URL of an OpenAI-compatible endpoint.")]
LlmProvider = Annotated[str | None, typer.Option(help="chat: a Hugging Face provider, or auto.")]
LlmModel = Annotated[str | None, typer.Option(help="Model name, or folder or Hub id of a local reranker.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps sentence vectors.")]
WithFailures = Annotated[bool, typer.Option("--failures", help="List the queries that personalq got wrong.")]
Quantized = Annotated[Path | None, typer.Option(help="Folder of the base's denoiser as `quantize` stored it.")]
Out = Annotated[Path | None, typer.Option(help="Also write the result there, as JSON.")]
Kept = Annotated[Path | None, typer.Option(help="Folder that keeps what is finished, to go on there another time.")]
