"""The Space's own requirements: without what its SDK installs, and with a torch that exists for its hardware."""

from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from personalq.deploy.requirements import WITH_MCP, application, pinned, space_requirements
from personalq.errors import DeployError

TEXT = (Path(__file__).resolve().parents[2] / "requirements.txt").read_text()


def parsed(text: str) -> dict[str, Requirement]:
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "--"))]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


@pytest.mark.parametrize("hardware", ["cpu-basic", "zero-a10g", "t4-small"])
def test_it_is_the_application_without_what_the_sdk_installs(hardware: str) -> None:
    made, own = parsed(space_requirements(TEXT, hardware)), parsed("\n".join(application(TEXT)))
    assert set(own) - set(made) == {"gradio", "huggingface_hub"}
    assert set(made) - set(own) == {"mcp", "pydantic"}
    assert {name for name in own if name in made and str(own[name]) != str(made[name])} <= {"torch"}
    assert not {"pytest", "ruff", "playwright", "mypy"} & set(made)


def test_torch_is_one_that_the_hardware_has() -> None:
    zero, cpu, gpu = (space_requirements(TEXT, name) for name in ("zero-a10g", "cpu-basic", "t4-small"))
    assert parsed(zero)["torch"].specifier.contains("2.11.0") and not parsed(zero)["torch"].specifier.contains("2.13.0")
    assert "--extra-index-url https://download.pytorch.org/whl/cpu\n" in cpu
    assert parsed(cpu)["torch"].specifier.contains("2.11.0+cpu")
    assert "--extra-index-url" not in zero + gpu
    assert parsed(gpu)["torch"].specifier.contains(pinned(TEXT, "torch"))


def test_mcp_and_pydantic_are_as_gradio_wants_them() -> None:
    wanted = {}
    for line in requires("gradio") or []:
        requirement = Requirement(line)
        if requirement.marker and requirement.marker.evaluate({"extra": "mcp"}):
            wanted[requirement.name] = requirement.specifier
    assert {name: wanted[name] for name in ("mcp", "pydantic")} == {
        r.name: r.specifier for r in map(Requirement, WITH_MCP)
    }


def test_a_file_without_the_section_or_the_pin_is_refused() -> None:
    with pytest.raises(DeployError, match="The tests and checks"):
        application("torch==1\n")
    with pytest.raises(DeployError, match="pins no gradio"):
        pinned("torch==1\n# The tests and checks\ngradio==6.31.0\n", "gradio")
