"""The one-way import rule: each row may import the rows above it, never sideways or down."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROW = {"errors": 0, "records": 0, "settings": 0, "catalog": 1, "quant": 1, "diffusion": 1}
ROW |= {"checkin": 2, "tune": 2, "backend": 3, "ui": 4, "bench": 4, "deploy": 4}
ROW |= {"cli": 5, "__main__": 6, "app": 5, "__init__": 0}
TORCH_HOMES = ("quant", "diffusion", "tune", "backend", "bench")
TORCH_FILES = ("checkin/dense.py", "checkin/rerank/causal.py", "checkin/rerank/cross_encoder.py")
TORCH_FILES += ("checkin/rerank/reader.py", "checkin/rerank/training/heads.py", "checkin/rerank/training/__main__.py")
FILES = [*(ROOT / "personalq").rglob("*.py"), ROOT / "app.py"]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "personalq":
                found |= {f"personalq.{alias.name}" for alias in node.names if alias.name != "__version__"}
    return found


def unit(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "personalq" else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_rows_above(path: Path) -> None:
    here = unit(path)
    for name in imports(path):
        if not name.startswith("personalq."):
            continue
        there = name.split(".")[1]
        assert there == here or ROW[there] < ROW[here] or ROW[here] == ROW[there] == 0, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_stay_home(path: Path) -> None:
    names = {name.split(".")[0] for name in imports(path)}
    here, inside = unit(path), path.relative_to(ROOT / "personalq").as_posix() if path.name != "app.py" else ""
    assert "gradio" not in names or here == "ui"
    assert "torch" not in names or here in TORCH_HOMES or inside in TORCH_FILES


def test_no_module_is_named_for_nothing() -> None:
    assert not [p for p in FILES if p.stem in {"util", "utils", "common", "helper", "helpers", "misc"}]
