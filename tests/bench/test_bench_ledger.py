"""Finished rows come back as they were; what is damaged or was made by another plan is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personalq.bench.ledger import Ledger
from personalq.errors import BenchError

PLAN = {"dtype": "bfloat16", "jobs": [["a", 1]]}
PICTURES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def test_rows_and_pictures_come_back(tmp_path: Path) -> None:
    Ledger(tmp_path / "new" / "folder", PLAN).add("taq-w4a8", {"psnr": [1.5, None]}, PICTURES)
    again = Ledger(tmp_path / "new" / "folder", PLAN)
    assert again.row("taq-w4a8") == {"psnr": [1.5, None]}
    assert (again.seen("taq-w4a8") == PICTURES).all()
    assert again.row("rtn-w4a8") is None


def test_without_a_folder_rows_are_held_in_memory() -> None:
    ledger = Ledger(None, PLAN)
    assert ledger.row("a") is None
    ledger.add("a", {"x": 1}, PICTURES)
    assert ledger.row("a") == {"x": 1}
    assert (ledger.seen("a") == PICTURES).all()


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    Ledger(tmp_path / "rows", PLAN).add("../../out", {"x": 1})
    assert not list(tmp_path.glob("*.json"))
    assert Ledger(tmp_path / "rows", PLAN).row("../../out") == {"x": 1}


def test_another_plan_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path, PLAN)
    with pytest.raises(BenchError, match="another folder"):
        Ledger(tmp_path, PLAN | {"dtype": "float32"})


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_damaged_rows_name_the_remedy(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(tmp_path, PLAN)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BenchError, match="delete"):
        ledger.row("a")


def test_missing_or_pickled_pictures_are_refused(tmp_path: Path) -> None:
    Ledger(tmp_path, PLAN).add("a", {})
    with pytest.raises(BenchError, match=r"delete a\.json"):
        Ledger(tmp_path, PLAN).seen("a")
    np.savez(tmp_path / "a.npz", pictures=np.array([{"x": 1}], dtype=object))
    with pytest.raises(BenchError, match=r"delete a\.json"):
        Ledger(tmp_path, PLAN).seen("a")
