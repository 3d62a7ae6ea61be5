"""The command line. Results go to stdout (with --json one JSON object and nothing else), the rest to stderr."""

from __future__ import annotations

from personalq.cli.bench import bench
from personalq.cli.deploy import deploy
from personalq.cli.show import note
from personalq.cli.use import app
from personalq.errors import PersonalQError

app.add_typer(bench, name="bench")
app.add_typer(deploy, name="deploy")


def main() -> None:
    """Run the command line; every error of ours becomes one line on stderr and exit status 1."""
    try:
        app(standalone_mode=True)
    except PersonalQError as error:
        note(f"error: {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
