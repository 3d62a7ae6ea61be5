"""The saved index survives crashes, damage and company; what has not changed is not read again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from catalog_files import weights, write

from personalq.catalog import index, jsonl, memory
from personalq.catalog.index import index_path, load_catalog
from personalq.catalog.memory import ABANDONED, Memory, backup
from personalq.checkin.dense import Encoder

ROOT = Path(__file__).resolve().parents[2]
SAVER = """
import os, sys, time
from pathlib import Path
from personalq.catalog.memory import Memory

def save(generation, entries=400):
    memory = Memory(Path(sys.argv[1]))
    for number in range(entries):
        memory.keep(f"file{number}", generation, {"generation": generation, "text": "x" * 200})
    return memory.save()
"""
HANGS_WHILE_WRITING = """
os.fsync = lambda _: (print("now", flush=True), time.sleep(60))
save(2)
"""
HANGS_BETWEEN_THE_TWO_RENAMES = """
whole = Path.replace
def replace(path, target):
    if path.suffix == ".tmp":
        print("now", flush=True)
        time.sleep(60)
    return whole(path, target)
Path.replace = replace
save(2)
"""
SAVES_FOR_EVER = """
print("now", flush=True)
generation = int(sys.argv[2])
while True:
    generation += 2
    reason = save(generation)
    assert reason is None, reason
"""


def saver(path, script, *arguments):
    """A process that has just come to the point where it says "now"."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER + script, str(path), *arguments], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout.readline() == "now\n"
    return process


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def saved(path, generation, entries=400):
    store = Memory(path)
    for number in range(entries):
        store.keep(f"file{number}", generation, {"generation": generation})
    assert store.save() is None


def generations(path):
    return {value["generation"] for _, value in Memory(path).known.values()}


@pytest.mark.parametrize("script", [HANGS_WHILE_WRITING, HANGS_BETWEEN_THE_TWO_RENAMES], ids=["writing", "renaming"])
def test_a_process_killed_while_saving_leaves_the_old_index(tmp_path, script):
    path = tmp_path / "index.json"
    saved(path, 1)
    killed(saver(path, script))
    assert generations(path) == {1} and len(Memory(path).known) == 400
    saved(path, 3)
    assert generations(path) == {3}


def test_a_process_killed_at_any_moment_leaves_a_whole_index(tmp_path):
    path = tmp_path / "index.json"
    saved(path, 1)
    for turn in range(3):
        process = saver(path, SAVES_FOR_EVER, str(2 * turn))
        time.sleep(0.01 + 0.013 * turn)
        killed(process)
        store = Memory(path)
        assert len(store.known) == 400 and len(generations(path)) == 1 and store.tally().trouble == ""


def test_what_a_killed_process_left_is_cleared_away_in_time(tmp_path):
    path = tmp_path / "index.json"
    saved(path, 1)
    killed(saver(path, HANGS_WHILE_WRITING))
    left = [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]
    assert len(left) == 1
    saved(path, 2)
    assert left[0].exists()  # Its owner might still be at work.
    os.utime(left[0], (time.time() - ABANDONED - 1,) * 2)
    saved(path, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.bak", "index.json"]


def test_two_processes_that_save_at_once_leave_a_whole_index(tmp_path):
    path = tmp_path / "index.json"
    saved(path, 1)
    processes = [saver(path, SAVES_FOR_EVER, str(start)) for start in (0, 1)]
    seen = set()
    end = time.monotonic() + 30
    while len(seen) < 8 and time.monotonic() < end:
        store = Memory(path)
        assert store.tally().trouble == "" and len(store.known) == 400
        found = {value["generation"] for _, value in store.known.values()}
        assert len(found) == 1
        seen |= found
    alive = [process.poll() for process in processes]
    for process in processes:
        killed(process)
    assert alive == [None, None]
    assert {generation % 2 for generation in seen} == {0, 1}


@pytest.mark.parametrize("damage", ["half", "empty", "noise", "flipped", "folder"])
def test_a_damaged_index_gives_way_to_the_copy_before_it(tmp_path, damage):
    path = tmp_path / "index.json"
    saved(path, 1)
    saved(path, 2)
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = data.replace(b'"generation": 2', b'"generation": 9', 1)
        path.write_bytes(
            {"half": data[: len(data) // 2], "empty": b"", "noise": b"\xff" * 99, "flipped": flipped}[damage]
        )
    store = Memory(path)
    assert generations(path) == {1} and "the copy before it was used" in store.tally().trouble
    if damage != "folder":
        saved(path, 3)
        assert generations(path) == {3} and Memory(path).tally().trouble == ""


def test_a_sound_index_is_written_again_over_a_damaged_one(tmp_path):
    path = tmp_path / "index.json"
    saved(path, 1)
    saved(path, 2)
    path.write_bytes(b"noise")
    store = Memory(path)
    for key, (stamp, _) in store.known.items():
        assert store.recall(key, stamp)
    assert store.save() is None
    assert generations(path) == {1}
    assert backup(path).read_bytes() != b"noise"


def test_a_damaged_index_costs_only_what_is_new_since_its_copy(tmp_path, monkeypatch):
    repo, cache = tmp_path / "repo", tmp_path / "cache"
    for number in range(20):
        weights(repo / f"fox{number}.safetensors", metadata={"n": str(number)})
    load_catalog(repo, cache)
    weights(repo / "owl.safetensors")
    load_catalog(repo, cache)
    index_path(repo, cache).write_bytes(b"{")
    read = []
    really = index.read_file
    monkeypatch.setattr(index, "read_file", lambda path: read.append(path.name) or really(path))
    assert len(load_catalog(repo, cache).checkpoints) == 21
    assert read == ["owl.safetensors"]


def test_an_interruption_costs_only_what_was_not_yet_saved(tmp_path, monkeypatch):
    repo, cache = tmp_path / "repo", tmp_path / "cache"
    for number in range(6):
        weights(repo / f"fox{number}.safetensors", metadata={"n": str(number)})
    monkeypatch.setattr(memory, "SAVE_EVERY", -1)
    read = []
    really = index.read_file

    def interrupted(path):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(path.name)
        return really(path)

    monkeypatch.setattr(index, "read_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_catalog(repo, cache)
    assert len(read) == 4
    read.clear()
    catalog = load_catalog(repo, cache)
    assert read == ["fox4.safetensors", "fox5.safetensors"]
    assert len(catalog.checkpoints) == 6 and (catalog.tally.new, catalog.tally.gone) == (2, 0)


# --- adding one ----------------------------------------------------------------------------------


def records(count):
    return [{"id": f"mk-{number}-1", "kind": "lora", "name": f"Fox {number}"} for number in range(count)]


def test_one_record_more_in_ten_thousand_is_the_only_one_interpreted(tmp_path, monkeypatch):
    path, cache = tmp_path / "c.jsonl", tmp_path / "cache"
    path.write_text("\n".join(map(json.dumps, records(10_000))))
    first = load_catalog(path, cache)
    assert (len(first.checkpoints), first.tally.new) == (10_000, 10_000)
    with path.open("a") as file:
        file.write('\n{"id": "new", "kind": "ti", "name": "Owl"}\n')
    interpreted = []
    really = jsonl._record
    monkeypatch.setattr(jsonl, "_record", lambda line: interpreted.append(line) or really(line))
    second = load_catalog(path, cache)
    assert len(interpreted) == 1 and b'"new"' in interpreted[0]
    assert second.checkpoints[:-1] == first.checkpoints and second.checkpoints[-1].name == "Owl"
    assert (second.tally.entries, second.tally.new, second.tally.reread, second.tally.gone) == (10_001, 1, 0, 0)


def test_one_text_more_in_ten_thousand_is_the_only_one_encoded(tmp_path, monkeypatch):
    encoded = []

    def encode(encoder, texts):
        encoded.extend(texts)
        return np.ones((len(texts), encoder.width), dtype="float32")

    monkeypatch.setattr(Encoder, "_encode", encode)
    texts = [f"a fox of number {number}" for number in range(10_000)]
    Encoder(tmp_path).documents(texts)
    assert len(encoded) == 10_000
    encoded.clear()
    Encoder(tmp_path).documents([*texts, "an owl"])
    assert encoded == ["an owl"]


def test_changed_and_lost_records_are_counted(tmp_path):
    path, cache = tmp_path / "c.jsonl", tmp_path / "cache"
    path.write_text("\n".join(map(json.dumps, records(5))))
    load_catalog(path, cache)
    changed = records(4)
    changed[2]["name"] = "Owl"
    path.write_text("\n".join(map(json.dumps, changed)))
    found = load_catalog(path, cache)
    assert found.checkpoints[2].name == "Owl"
    assert (found.tally.entries, found.tally.new, found.tally.reread, found.tally.gone) == (4, 0, 1, 1)


def test_weights_that_come_and_go_beside_a_catalogue_are_noticed(tmp_path):
    path = write(tmp_path / "c.jsonl", {"id": "x", "kind": "lora", "file": "fox.safetensors"})
    assert load_catalog(path, tmp_path / "cache").checkpoints[0].files == ()
    weights(tmp_path / "fox.safetensors")
    assert len(load_catalog(path, tmp_path / "cache").checkpoints[0].files) == 1


def test_content_exchanged_under_an_old_date_is_read_again(tmp_path):
    repo, cache = tmp_path / "repo", tmp_path / "cache"
    weights(repo / "fox.safetensors")
    sidecar = write(repo / "fox.json", {"activation text": "one"})
    state = sidecar.stat()
    assert load_catalog(repo, cache).checkpoints[0].triggers == ("one",)
    time.sleep(0.02)  # Longer than the tick of the file system's clock.
    write(sidecar, {"activation text": "two"})
    os.utime(sidecar, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert sidecar.stat().st_size == state.st_size
    found = load_catalog(repo, cache)
    assert found.checkpoints[0].triggers == ("two",) and found.tally.reread == 1


def test_other_readers_do_not_believe_the_index(tmp_path, monkeypatch):
    path = tmp_path / "index.json"
    saved(path, 1)
    monkeypatch.setattr(memory, "_readers", lambda: "newer")
    assert Memory(path).known == {} and "another version" in Memory(path).tally().trouble
