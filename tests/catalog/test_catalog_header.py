import hashlib
import json

import pytest
from catalog_files import LORA, raw, weights

from personalq.catalog.header import read_header
from personalq.catalog.weights import read
from personalq.errors import BrokenFileError


def entry(shape, begin, end, dtype="F16"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_shapes_and_metadata_are_read(tmp_path):
    header = read_header(weights(tmp_path / "a.safetensors", LORA, {"ss_output_name": "a"}))
    assert header.shapes == LORA
    assert header.metadata == {"ss_output_name": "a"}


@pytest.mark.parametrize(
    ("header", "body", "length", "reason"),
    [
        (b"", b"", 10 * 2**30, "no .safetensors file.* claims a header"),
        (b"{}", b"", 2**63, "claims a header"),
        (b"{}", b"", 500, "cut off inside its header"),
        (b"not json", b"", None, "not valid JSON"),
        (b"[1]", b"", None, "no object"),
        (b'{"a": "\xff"}', b"", None, "not UTF-8"),
        (b"[" * 200_000, b"", None, "nested"),
        (b'{"a": ' * 100_000, b"", None, "nested"),
        (json.dumps({"a": entry([4], 0, 8)}).encode(), bytes(4), None, "cut off: 4 bytes"),
        (json.dumps({"a": entry([4], 0, 8)}).encode(), bytes(99), None, "belong to no tensor"),
        (json.dumps({"a": entry([99], 0, 8)}).encode(), bytes(8), None, "does not have the size"),
        (json.dumps({"a": entry([4], 8, 0)}).encode(), bytes(8), None, "malformed"),
        (json.dumps({"a": entry([-4], 0, 8)}).encode(), bytes(8), None, "malformed"),
        (json.dumps({"a": entry("4", 0, 8)}).encode(), bytes(8), None, "malformed"),
        (json.dumps({"a": 5}).encode(), b"", None, "malformed"),
        (json.dumps({"a": entry([True], 0, 2)}).encode(), bytes(2), None, "malformed"),
        (json.dumps({"a": entry([4], 0, 8), "b": entry([4], 4, 12)}).encode(), bytes(12), None, "overlap"),
        (json.dumps({"a": entry([4], 8, 16)}).encode(), bytes(16), None, "gaps"),
        (json.dumps({"a": entry([2**47] * 8, 0, 8)}).encode(), bytes(8), None, "does not have the size"),
        (json.dumps({"__metadata__": [1]}).encode(), b"", None, "metadata is no object"),
    ],
)
def test_lying_and_hostile_headers_are_refused(tmp_path, header, body, length, reason):
    path = raw(tmp_path / "a.safetensors", header, body, length)
    with pytest.raises(BrokenFileError, match=reason):
        read_header(path)


@pytest.mark.parametrize("size", [0, 3, 7])
def test_a_file_too_short_for_a_header_is_refused(tmp_path, size):
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(BrokenFileError, match="ends before its header"):
        read_header(path)


def test_every_truncation_of_a_good_file_is_noticed(tmp_path):
    whole = weights(tmp_path / "a.safetensors").read_bytes()
    for size in range(len(whole)):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[:size])
        with pytest.raises(BrokenFileError):
            read_header(path)


def test_the_digest_of_the_tensors_outlives_an_edited_header(tmp_path):
    paths = [weights(tmp_path / f"{name}.safetensors", LORA, {"modelspec.title": name * 9}) for name in ("one", "two")]
    one, two = map(read, paths)
    assert one.sha256 != two.sha256
    assert one.tensors_sha256 == two.tensors_sha256
    assert one.tensors_sha256 == hashlib.sha256(paths[0].read_bytes()[read_header(paths[0]).length :]).hexdigest()
