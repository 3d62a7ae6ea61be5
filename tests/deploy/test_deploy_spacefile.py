"""The Spacefile: the project's own is valid, and everything that is wrong in one is named with what to change."""

from pathlib import Path

import pytest
from huggingface_hub import SpaceHardware

from personalq.deploy.requirements import pinned
from personalq.deploy.spacefile import MOST_BYTES, known_hardware, known_repo, read_spacefile
from personalq.deploy.write import checked
from personalq.errors import DeployError

ROOT = Path(__file__).resolve().parents[2]


def test_the_projects_readme_is_what_its_spacefile_says() -> None:
    space = checked(ROOT)
    assert space.front_matter["sdk_version"] == pinned((ROOT / "requirements.txt").read_text(), "gradio")
    assert (ROOT / space.front_matter["app_file"]).is_file()
    assert space.hardware in {one.value for one in SpaceHardware}
    assert space.variables["PERSONALQ_HOST"] == "0.0.0.0"  # else nobody reaches the app from outside its container


def test_a_good_one_is_read(project: Path) -> None:
    space = read_spacefile(project)
    assert (space.repo, space.hardware, space.secrets) == ("me/app", "cpu-basic", ("HF_TOKEN", "OTHER_KEY"))
    assert space.variables == {"GREETING": "hello"}


WRONG = [
    ("v: 0", "v: 1", "v must be 0"),
    ("v: 0", "v: 0\nextra: 1", "unknown section 'extra'"),
    ("assets/icon.png", "assets/none.png", "icon 'assets/none.png'"),
    ("assets/icon.png", "../../../etc/passwd", "icon"),
    ("primary: true", "primary: false", "Exactly one micro"),
    ("engine: custom,", "", "needs engine"),
    ("src: .", "src: nowhere", "no folder"),
    ("run: python app.py", "run: python app.py, port: 1", "unknown key 'port'"),
    ('default: ""', "default: abc", "preset HF_TOKEN has a value"),
    ("v: 0", "v: 0  # hf_abcdefghijklmnopqrstu", "looks like an access token"),
    ("repo: me/app", "repo: app", "repo must be"),
    ("hardware: cpu-basic", "hardware: gpu", "hardware must be one of cpu-basic"),
    ("hardware: cpu-basic", "hardware: cpu-basic\n  disk: 1", "unknown key 'disk'"),
    ("{GREETING: hello}", "{GREETING: 1}", "numbers in quotes"),
    ("{GREETING: hello}", "{HF_TOKEN: hello}", "HF_TOKEN is among the secrets and the variables"),
    ("[HF_TOKEN, OTHER_KEY]", "{HF_TOKEN: abc}", "names alone"),
    ("[HF_TOKEN, OTHER_KEY]", '["HF_TOKEN=abc"]', "names alone"),
    ("volumes: []", "volumes: [{type: disk, source: me/x, mount_path: data}]", "type must be.*\n.*mount_path"),
    ("title: An app", "name: An app", "needs title.*\n.*'name', which Hugging Face does not document"),
    ("title: An app", "title: An app\n    hardware: cpu-basic", "hardware, which is ignored"),
    ("emoji: 🎨", "emoji: app", "one emoji"),
    ("colorFrom: red", "colorFrom: cyan", "colorFrom must be one of red"),
    ("colorTo: blue", "colorTo: '#00f'", "colorTo must be one of red"),
    ("sdk: gradio", "sdk: docker", "sdk must be one of gradio"),
    ('"6.31.0"', '"6.30.0"', "sdk_version is 6.30.0, but requirements.txt pins gradio 6.31.0"),
    ('"3.12"', "3.12", "python_version must be quoted"),
    ('"3.12"', '"3.10"', "python_version must be one of 3.11, 3.12"),
    ("app_file: app.py", "app_file: main.py", "app_file 'main.py'"),
    ("short_description: An app", f"short_description: {'x' * 61}", "has 61 characters"),
    ("title: An app", "title: An app\n    suggested_hardware: tpu", "suggested_hardware must be"),
    ("title: An app", "title: An app\n    pinned: 'yes'", "pinned must be true or false"),
    ("title: An app", "title: An app\n    models: gpt2", "models must be a list"),
    ("title: An app", "title: An app\n    startup_duration_timeout: long", "such as 30m"),
    ("title: An app", "title: An app\n    hf_oauth_expiration_minutes: 99999", "up to 43200"),
    ("title: An app", "title: An app\n    custom_headers: {x-frame-options: deny}", "may hold only"),
]


@pytest.mark.parametrize(("there", "instead", "says"), WRONG, ids=[f"{k} {row[2][:30]}" for k, row in enumerate(WRONG)])
def test_what_is_wrong_is_named(there: str, instead: str, says: str, project: Path) -> None:
    text = (project / "Spacefile").read_text()
    assert there in text
    (project / "Spacefile").write_text(text.replace(there, instead, 1))
    with pytest.raises(DeployError, match=says) as told:
        read_spacefile(project)
    assert "abcdefghijkl" not in str(told.value)


def test_everything_wrong_is_named_at_once(project: Path) -> None:
    text = (project / "Spacefile").read_text()
    (project / "Spacefile").write_text(text.replace("red", "cyan").replace("v: 0", "v: 7"))
    with pytest.raises(DeployError, match=r"v must be 0(.|\n)*colorFrom"):
        read_spacefile(project)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"a: [1", "not YAML .line"),
        (b"- 1", "must hold v"),
        (b"!!python/object/apply:os.system ['true']", "not YAML"),
        (b"[" * 3_000, "too deep|not YAML"),
        (b"a: 2024-99-99", "date|unknown section"),
        (b"#" * (MOST_BYTES + 1), "larger than"),
        (b"v: 0\nmicros: {}\nhuggingface: []\n", "micros must list(.|\n)*front_matter"),
        (b"v: 0\nmicros: [{presets: [1]}]\nhuggingface: {secrets: 1, volumes: 2, variables: 3}\n", "names alone"),
    ],
)
def test_what_is_no_spacefile_is_a_typed_error(data: bytes, says: str, project: Path) -> None:
    (project / "Spacefile").write_bytes(data)
    with pytest.raises(DeployError, match=says):
        read_spacefile(project)


def test_a_missing_one_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="run this in the project's folder"):
        read_spacefile(tmp_path)


def test_hardware_and_names_from_the_command_line_are_checked_too() -> None:
    assert known_hardware("zero-a10g") == "zero-a10g"
    with pytest.raises(DeployError, match="cpu-basic"):
        known_hardware("gpu")
    for name in ("OWNER/app", "app", "a/b/c", "-a/b", "a/b;c", "a/" + "b" * 200):
        with pytest.raises(DeployError, match="--repo OWNER/NAME"):
            known_repo(name)
