"""Launches the app on the embedded repository, or on the one its flags name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from personalq.errors import PersonalQError
from personalq.settings import Settings
from personalq.ui.layout import LOOK, build


class Bar(tqdm):  # type: ignore[misc]
    """Counts the files read."""

    def tell(self, done: int, total: int, what: str) -> None:
        """`done` of `total`."""
        self.total = total
        self.update(done - self.n)


def main(
    repo: Annotated[str | None, typer.Option(help="Folder of checkpoints, catalog.jsonl, or hub:owner/name.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model: a diffusers folder or a Hub id.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder that keeps every finished picture of all visitors.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Open PersonalQ in the browser."""
    try:
        settings = Settings.read(repo=repo, base=base, device=device, pictures=pictures, host=host, port=port)
        with Bar(desc="Reading the repository", leave=False) as bar:
            page = build(settings, bar.tell)
    except PersonalQError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        page.queue(max_size=32).launch(
            server_name=settings.host,
            server_port=settings.port,
            ssr_mode=False,
            max_file_size="200mb",
            mcp_server=True,
            **LOOK,
        )
    except OSError as error:
        raise typer.BadParameter(
            f"{settings.host} port {settings.port} cannot be listened on: choose another --host or --port."
        ) from error


if __name__ == "__main__":
    typer.run(main)
