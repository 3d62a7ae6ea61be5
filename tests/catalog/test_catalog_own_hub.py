"""A repository that a visitor names: read and fetched as a stranger, and never more of it than a session may cost."""

import json
from pathlib import Path

import pytest
from catalog_files import LORA, PEFT, PNG, UNET, weights

from personalq.catalog.hub_weights import fetched
from personalq.catalog.own_hub import LOOKED_AT, MOST, from_hub, repo_named
from personalq.errors import HubAccessError, HubError, HubUnavailableError

CARD = "---\nlicense: mit\nbase_model: runwayml/stable-diffusion-v1-5\ninstance_prompt: zwx dog\n---\n# Fox\n"


@pytest.fixture
def fox(hub, tmp_path):
    """A repository of one LoRA, and the token of a server that may read everything."""
    hub.add("lab/fox", {"fox.safetensors": bytes_of(tmp_path, LORA), "README.md": CARD, "fox.png": PNG})
    return hub


@pytest.fixture
def logged_in(monkeypatch, hub):
    monkeypatch.setenv("HF_TOKEN", hub.token)


def bytes_of(tmp_path, shapes=LORA, name="a.safetensors"):
    return weights(tmp_path / name, shapes).read_bytes()


def asked(hub, tmp_path, name="lab/fox", **options):
    return from_hub(name, tmp_path / "visitor", endpoint=hub.address, **options)


def test_a_repository_becomes_the_visitors_own_checkpoints(fox, tmp_path):
    (found,) = asked(fox, tmp_path).checkpoints
    assert (found.triggers, found.base, found.license) == (("zwx dog",), "SD 1.5", "mit")
    assert found.id.startswith("own-") and len(found.id) == 36 and found.group_id.startswith("own:")
    assert found.files[0] == f"hub-public:lab/fox@{fox.commit('lab/fox')}/fox.safetensors"
    assert asked(fox, tmp_path).checkpoints[0].id != found.id


def test_nothing_is_written_and_no_weights_are_read(fox, tmp_path):
    fox.add("lab/big", {"big.safetensors": bytes_of(tmp_path, dict.fromkeys(LORA, (2, 10**6))), "README.md": CARD})
    asked(fox, tmp_path, "lab/big")
    assert not (tmp_path / "visitor").exists()
    assert max(fox.sent.values()) <= 100_000


@pytest.mark.parametrize("place", ["api", "weights"])
def test_the_token_of_the_server_is_not_sent_for_a_visitor(fox, tmp_path, logged_in, place):
    (found,) = asked(fox, tmp_path).checkpoints
    if place == "weights":
        fox.forget()
        assert Path(fetched(found, fox.address).files[0]).is_file()
    assert fox.requests and not any("authorization" in headers for _, _, headers in fox.requests)


def test_it_is_sent_where_the_operator_says_so(fox, tmp_path, logged_in):
    (found,) = asked(fox, tmp_path, anonymous=False).checkpoints
    assert found.files[0].startswith("hub:")
    fetched(found, fox.address)
    assert all(headers["authorization"] == f"Bearer {fox.token}" for _, _, headers in fox.requests)


def test_private_and_gated_repositories_stay_closed_though_the_server_may_read_them(fox, tmp_path, logged_in):
    fox.private.add("lab/fox")
    with pytest.raises(HubAccessError, match="only public repositories"):
        asked(fox, tmp_path)
    assert asked(fox, tmp_path, anonymous=False).checkpoints
    fox.private.clear()
    fox.gated.add("lab/fox")
    with pytest.raises(HubAccessError, match="only public repositories") as error:
        asked(fox, tmp_path)
    assert "HF_TOKEN" not in str(error.value)


def test_a_repository_that_is_closed_before_its_weights_are_fetched(fox, tmp_path, logged_in):
    (found,) = asked(fox, tmp_path).checkpoints
    fox.private.add("lab/fox")
    with pytest.raises(HubAccessError, match="Only public repositories") as error:
        fetched(found, fox.address)
    assert "HF_TOKEN" not in str(error.value)


def test_weights_can_be_fetched_into_the_visitors_folder(fox, tmp_path):
    (found,) = asked(fox, tmp_path).checkpoints
    local = fetched(found, fox.address, tmp_path / "visitor" / "hub")
    assert Path(local.files[0]).is_relative_to(tmp_path / "visitor" / "hub")
    assert fetched(local, fox.address) is local
    assert not (tmp_path / "hf_cache").exists()


def test_too_large_weights_are_left_out_with_a_remark(fox, tmp_path):
    size = len(fox.repos["lab/fox"]["fox.safetensors"])
    fox.repos["lab/fox"]["large.safetensors"] = bytes_of(tmp_path, dict.fromkeys(LORA, (2, 1000)))
    catalog = asked(fox, tmp_path, limit=size)
    assert [each.files[0].rpartition("/")[2] for each in catalog.checkpoints] == ["fox.safetensors"]
    assert any("large.safetensors" in problem.reason and "left out" in problem.reason for problem in catalog.problems)
    assert not any("large" in path for path in fox.paths())
    with pytest.raises(HubError, match=r"most for a session\. Choose another"):
        asked(fox, tmp_path, limit=size - 1)


def test_only_so_many_are_read_and_taken(hub, tmp_path):
    data = bytes_of(tmp_path)
    hub.add(
        "lab/many", {f"{n:03}.safetensors": data + b"" for n in range(60)} | {f"{n:03}.json": "{}" for n in range(90)}
    )
    catalog = asked(hub, tmp_path, "lab/many")
    assert len(catalog.checkpoints) == MOST
    said = " ".join(problem.reason for problem in catalog.problems)
    assert f"first {MOST} are taken" in said and f"first {LOOKED_AT} are looked at" in said
    assert len(hub.requests) <= 1 + 2 * LOOKED_AT


def test_a_header_that_no_lora_has_is_not_read(hub, tmp_path):
    header = json.dumps({"__metadata__": {"x": "y" * 5_000_000}})
    hub.add("lab/bomb", {"a.safetensors": len(header).to_bytes(8, "little") + header.encode()})
    with pytest.raises(HubError, match="begins with a header of"):
        asked(hub, tmp_path, "lab/bomb")
    assert sum(hub.sent.values()) < 1_000_000


@pytest.mark.parametrize(
    "files", [{"a.ckpt": b"PK"}, {"unet/diffusion_pytorch_model.safetensors": UNET}, {"README.md": CARD}, {}]
)
def test_what_cannot_be_used_is_an_error_that_says_so(hub, tmp_path, files):
    data = {name: bytes_of(tmp_path, each) if isinstance(each, dict) else each for name, each in files.items()}
    hub.add("lab/other", data)
    with pytest.raises(HubError, match="Choose another repository"):
        asked(hub, tmp_path, "lab/other")


def test_pickles_beside_a_lora_are_left_out_with_a_remark(hub, tmp_path):
    hub.add("lab/both", {"fox.safetensors": bytes_of(tmp_path, PEFT), "learned_embeds.bin": b"PK", "old.ckpt": b"PK"})
    catalog = asked(hub, tmp_path, "lab/both")
    assert all(each.loadable for each in catalog.checkpoints) and len(catalog.checkpoints) == 1
    assert not any(path.endswith((".bin", ".ckpt")) for path in hub.paths())


@pytest.mark.parametrize(
    "text",
    ["lab/fox", " lab/fox\n", "hub:lab/fox", "https://huggingface.co/lab/fox", "HTTP://www.huggingface.co/lab/fox/",
     "huggingface.co/lab/fox?not-for-all-audiences=true#readme", "https://hf.co/lab/fox/tree/main",
     "https://huggingface.co/lab/fox/blob/main/a/b.safetensors", "http://127.0.0.1:8123/lab/fox"],
)  # fmt: skip
def test_names_of_models(text):
    assert repo_named(text, "http://127.0.0.1:8123") == "lab/fox"


@pytest.mark.parametrize(
    "text",
    ["", "lab", "user/lab", "hub:user/lab", "collection/lab/set", "https://huggingface.co/collections/lab/set-0123",
     "https://huggingface.co/datasets/lab/fox", "https://huggingface.co/spaces/lab/fox", "https://huggingface.co/lab",
     "https://example.org/lab/fox", "https://huggingface.co@example.org/lab/fox", "http://169.254.169.254/lab/fox",
     "file:///etc/passwd", "../lab/fox", "lab/../fox", "/etc/passwd/x", "lab/fox/tree/other", "lab/fox/resolve",
     "lab\\fox", "lab/fox@main", "lab/f\0x", "lab/" + "x" * 5000,
     "https://huggingface.co:99999/lab/fox", "hub:hub:lab/fox"],
)  # fmt: skip
def test_names_of_anything_else_ask_nothing(hub, tmp_path, text):
    with pytest.raises(HubError, match="write owner/name"):
        from_hub(text, tmp_path, endpoint=hub.address)
    assert not hub.requests


@pytest.mark.parametrize(("status", "error"), [(404, HubError), (429, HubUnavailableError), (500, HubError)])
def test_trouble_of_the_hub_is_an_error_without_the_servers_business(fox, tmp_path, logged_in, status, error):
    fox.trouble["/api/models/lab/fox"] = status
    with pytest.raises(error) as raised:
        asked(fox, tmp_path)
    assert "HF_TOKEN" not in str(raised.value) and "log in" not in str(raised.value)
