"""The commands that deploy. They parse and print; `personalq.deploy` knows how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from personalq.cli.options import AsJson
from personalq.cli.show import note, report
from personalq.settings import ROOT

deploy = typer.Typer(no_args_is_help=True, help="Check, write and push a Hugging Face Space, as the Spacefile says.")
Project = Annotated[Path, typer.Option("--project", help="Folder with the Spacefile, README.md and requirements.txt.")]


@deploy.command()
def check(project: Project = ROOT, as_json: AsJson = False) -> None:
    """Check the Spacefile, and that the README's front matter is what it says."""
    from personalq.deploy.write import checked

    space = checked(project)
    result = {"repo": space.repo, "hardware": space.hardware, "front_matter": dict(space.front_matter)}
    report(result, as_json, lambda _: "The Spacefile is valid, and the README's front matter is what it says.")


@deploy.command()
def write(project: Project = ROOT, as_json: AsJson = False) -> None:
    """Write the README's front matter as the Spacefile says; the rest of the README stays byte for byte."""
    from personalq.deploy.write import written

    changed = written(project)
    report(
        {"changed": changed}, as_json, lambda _: "README.md is written." if changed else "README.md is as it should be."
    )


@deploy.command()
def push(
    repo: Annotated[str | None, typer.Option(help="OWNER/NAME of the Space, instead of the Spacefile's.")] = None,
    hardware: Annotated[str | None, typer.Option(help="Such as cpu-basic, zero-a10g or t4-small.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new Space private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the calls and send nothing.")] = False,
    project: Project = ROOT,
    as_json: AsJson = False,
) -> None:
    """Make or update the Space. The token is read from HF_TOKEN or from `hf auth login`."""
    from personalq.deploy.plan import planned
    from personalq.deploy.push import push as pushed

    plan = planned(project.resolve(), os.environ, repo, hardware, private)
    result: dict[str, Any] = {"repo": plan.repo, "hardware": plan.hardware, "files": plan.files, "bytes": plan.bytes}
    result |= {"outside_git": list(plan.large), "secrets_unset": list(plan.unset), "dry_run": dry_run}
    if dry_run:
        result["calls"] = [call.shown() for call in plan.calls]
        report(result, as_json, lambda _: "\n".join([*result["calls"], _size(result)]))
        return
    note(_size(result))
    result["url"] = pushed(plan, os.environ, note)
    report(result, as_json, lambda _: f"{result['url']} runs.")


def _size(result: dict[str, Any]) -> str:
    """What goes up, in a line, and the secrets that do not."""
    large = f", {len(result['outside_git'])} of them over 10 MB to LFS or Xet" if result["outside_git"] else ""
    unset = f"; not set here and left alone: {', '.join(result['secrets_unset'])}" if result["secrets_unset"] else ""
    return f"{result['files']} files, {result['bytes'] / 1e6:.1f} MB{large}{unset}"
