"""The API and the MCP server of a running app, asked by Gradio's own client and by an MCP client."""

from __future__ import annotations

import ast
import asyncio
import io
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

gradio_client = pytest.importorskip("gradio_client")
mcp = pytest.importorskip("mcp", reason="gradio[mcp] is not installed")

NAMES = {"search_concepts", "clarify", "rewrite_prompt", "compare_images", "read_recipe", "vram_report"}
CONCEPT = "luna-cat"


@pytest.fixture(scope="module")
def url(app_url: str) -> str:
    """The app on the embedded repository."""
    return app_url


@pytest.fixture()
def client(url: str, tmp_path: Path) -> Any:
    return gradio_client.Client(url, verbose=False, download_files=str(tmp_path), analytics_enabled=False)


def in_mcp(url: str, use: Callable[[Any], Any]) -> Any:
    """What `use` returns of a session with the MCP server."""
    from mcp.client.streamable_http import streamablehttp_client

    async def talk() -> Any:
        async with (
            streamablehttp_client(f"{url}/gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await use(session)

    return asyncio.run(talk())


def written(png: bytes) -> dict[str, Any]:
    """What the PNG says of itself."""
    with Image.open(io.BytesIO(png)) as picture:
        return dict(picture.text)  # type: ignore[attr-defined]


# --- Gradio's client ---------------------------------------------------------------------------


def test_exactly_the_six_functions_are_named(client: Any) -> None:
    info = client.view_api(return_format="dict")
    assert {name.lstrip("/") for name in info["named_endpoints"]} == NAMES
    assert info["unnamed_endpoints"] == {}
    made = info["named_endpoints"]["/compare_images"]
    assert [one["parameter_name"] for one in made["parameters"]] == ["prompt", "concept_id", "seed", "steps", "bits"]
    assert [one["parameter_default"] for one in made["parameters"][2:]] == [0, 28, 4]
    assert [one["python_type"]["type"] for one in made["returns"]][:2] == ["filepath", "filepath"]


def test_a_request_becomes_a_question_and_then_a_selection(client: Any) -> None:
    asked = client.predict("my dog on the beach", "", api_name="/clarify")
    assert asked["kind"] == "question" and len(asked["options"]) > 1
    chosen = client.predict("my dog on the beach", asked["options"][0]["id"], api_name="/clarify")
    assert chosen["kind"] == "selection"
    assert {one["id"] for one in chosen["concepts"]} <= set(asked["options"][0]["concept_ids"])
    span = chosen["spans"][0]
    assert chosen["prompt"][span["start"] : span["end"]] == span["text"]


def test_concepts_are_found_and_prompts_written(client: Any) -> None:
    found = client.predict("Luna the cat", 3, api_name="/search_concepts")
    assert found[0]["id"] == CONCEPT and len(found) <= 3
    assert not any("/" in str(value) for one in found for value in one.values() if value != one["description"])
    written_for = client.predict("my cat in the snow", CONCEPT, api_name="/rewrite_prompt")
    assert written_for["trigger"] in written_for["prompt"]


def test_pictures_say_how_they_were_made_and_their_recipe_is_read_again(client: Any) -> None:
    prompt = client.predict("my cat in the snow", CONCEPT, api_name="/rewrite_prompt")["prompt"]
    full, quantised, facts = client.predict(prompt, CONCEPT, 3, 2, 8, api_name="/compare_images")
    for path in (full, quantised):
        assert prompt in written(Path(path).read_bytes())["parameters"]
    assert facts["warnings"] == [] and facts["precision"] == "taq-w8a8"
    assert facts["quantised"]["weights_bytes"] < facts["full_precision"]["weights_bytes"]
    again = client.predict(gradio_client.handle_file(quantised), api_name="/read_recipe")
    assert (again["here"]["prompt"], again["here"]["seed"], again["here"]["steps"]) == (prompt, 3, 2)
    assert again["here"]["concepts"][0]["id"] == CONCEPT and again["missing"] == []


def test_memory_is_reported(client: Any) -> None:
    assert client.predict(api_name="/vram_report")


@pytest.mark.parametrize(
    ("call", "values", "said"),
    [
        ("search_concepts", ("cat", "five"), "limit"),
        ("search_concepts", (" ", 5), "query"),
        ("rewrite_prompt", ("cat", "no-such-concept"), "No concept has that id"),
        ("compare_images", ("cat", CONCEPT, 0, 51, 4), "steps"),
        ("compare_images", ("cat", CONCEPT, -1, 2, 4), "seed"),
        ("compare_images", ("cat", CONCEPT, 0, 2, 5), "bits"),
        ("read_recipe", ({"path": "/etc/passwd"},), "not uploaded"),
    ],
)
def test_bad_input_is_said(client: Any, call: str, values: tuple[Any, ...], said: str) -> None:
    with pytest.raises(gradio_client.exceptions.AppError, match=said):
        client.predict(*values, api_name=f"/{call}")


def test_two_clients_wait_for_each_other_and_both_are_served(url: str, tmp_path: Path) -> None:
    results: dict[int, Any] = {}

    def ask(seed: int) -> None:
        one = gradio_client.Client(url, verbose=False, download_files=str(tmp_path / str(seed)))
        results[seed] = one.predict("a cat", CONCEPT, seed, 2, 4, api_name="/compare_images")

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert {seed: result[2]["seed"] for seed, result in results.items()} == {1: 1, 2: 2}
    assert all("trigger" in result[2]["warnings"][0] for result in results.values())


# --- MCP ---------------------------------------------------------------------------------------


def test_the_mcp_server_has_the_six_tools(url: str) -> None:
    tools = {tool.name: tool for tool in in_mcp(url, lambda session: session.list_tools()).tools}
    assert set(tools) == NAMES
    assert all(tool.description and "Returns:" in tool.description for tool in tools.values())
    schema = tools["compare_images"].inputSchema
    assert set(schema["properties"]) == {"prompt", "concept_id", "seed", "steps", "bits"}
    assert set(schema["required"]) == {"prompt", "concept_id"}
    assert all(one["description"] for tool in tools.values() for one in tool.inputSchema["properties"].values())


def test_mcp_tools_answer(url: str) -> None:
    async def use(session: Any) -> tuple[Any, Any, Any]:
        found = await session.call_tool("search_concepts", {"query": "Luna the cat", "limit": 1})
        prompt = await session.call_tool("rewrite_prompt", {"query": "my cat", "concept_id": CONCEPT})
        wrong = await session.call_tool("search_concepts", {"query": "cat", "limit": 99})
        return found, prompt, wrong

    found, prompt, wrong = in_mcp(url, use)
    assert ast.literal_eval(found.content[0].text)[0]["id"] == CONCEPT
    assert ast.literal_eval(prompt.content[0].text)["concept_id"] == CONCEPT
    assert wrong.isError and "limit must be" in wrong.content[0].text


@pytest.mark.parametrize("listens", [False, True], ids=["plain", "with progress"])
def test_mcp_pictures_can_be_fetched(url: str, listens: bool) -> None:
    async def on_progress(done: float, total: float | None, message: str | None) -> None: ...

    async def use(session: Any) -> Any:
        values = {"prompt": "a cat", "concept_id": CONCEPT, "steps": 2}
        return await session.call_tool("compare_images", values, progress_callback=on_progress if listens else None)

    result = in_mcp(url, use)
    assert not result.isError
    said = " ".join(one.text for one in result.content if one.type == "text")
    addresses = list(dict.fromkeys(re.findall(r"https?://[^\s'\"]+\.png", said)))
    assert len(addresses) == 2
    assert all("parameters" in written(httpx.get(address).content) for address in addresses)
    assert sum(one.type == "image" for one in result.content) == (2 if listens else 0)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", ".gitignore", "sample_repo/README.md", "../app.py"])
def test_files_of_the_server_are_not_served(url: str, path: str) -> None:
    whole = path if path.startswith("/") else str(Path(__file__).parent.parent.parent / path)
    assert httpx.get(f"{url}/gradio_api/file={whole}").status_code == 403
    assert httpx.get(f"{url}/gradio_api/file={path}").status_code == 403


@pytest.mark.parametrize(("megabytes", "code"), [(1, 200), (201, 413)])
def test_uploads_are_limited(url: str, megabytes: int, code: int) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=cut"}

    def body() -> Iterator[bytes]:
        yield b'--cut\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        yield from (bytes(2**20) for _ in range(megabytes))
        yield b"\r\n--cut--\r\n"

    assert httpx.post(f"{url}/gradio_api/upload", content=body(), headers=kind, timeout=120).status_code == code
