"""The description that lies beside a quantised model: its recipe, where it came from, what every layer became.

Written as JSON and read back as text that nobody vouches for. It knows no tensors and no files but its own; patterns
that it reads are never matched against anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from personalq.errors import QuantizationError
from personalq.quant import formats
from personalq.quant.segment import After, Segments
from personalq.records import Protected, QType, Recipe, Rule

FILE = "quantization.json"
FORMAT = "personalq quantised denoiser"
VERSION = 1
MAX_BYTES = 16 << 20
MAX_TEXT = 2000
FORMATS = {value.name: value for value in vars(formats).values() if isinstance(value, QType)}
AGAIN = "quantise the model again"


@dataclass(frozen=True)
class Provenance:
    """What a quantised model was made from."""

    base: str
    """The folder name or Hub id of the float model."""
    weight_sha256: Mapping[str, str] = field(default_factory=dict)
    """Of the float model's files, by file name."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """What its rounding was fitted to, as far as it was: captions, seeds. Any JSON."""


@dataclass(frozen=True)
class StoredLayer:
    """What became of one layer: the rule it follows, None where no rule is asked, and the segments it was given."""

    rule: int | None
    segments: Segments


@dataclass(frozen=True)
class Sidecar:
    """All that `quantization.json` says."""

    recipe: Recipe
    dtype: str
    """Of the tensors that are not quantised: "bfloat16"."""
    denoiser: Mapping[str, Any]
    """The denoiser's configuration, with its `_class_name`."""
    provenance: Provenance
    versions: Mapping[str, str]
    stored_bytes: int
    """Of the model when it is loaded."""
    layers: Mapping[str, StoredLayer]
    files: Mapping[str, str]
    """SHA-256 of every file with tensors, by file name."""

    def write(self, folder: Path) -> None:
        """Write it into a folder. Raises QuantizationError for formats that are not in `FORMATS`, or no JSON."""
        document = {"format": FORMAT, "version": VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}
        document |= {"recipe": _recipe_as_json(self.recipe), "provenance": asdict(self.provenance)}
        document["layers"] = {name: _layer_as_json(layer) for name, layer in self.layers.items()}
        try:
            text = json.dumps(document, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise QuantizationError(f"The model's description cannot be written as JSON: {error}.") from error
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_sidecar(folder: Path) -> Sidecar:
    """The description in a folder, every field checked. Raises QuantizationError for anything that is not one."""
    try:
        with (folder / FILE).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        document = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise QuantizationError(f"No quantised model in {folder}: {FILE} cannot be read ({error}).") from error
    try:
        return _sidecar(_object(document, "document"))
    except QuantizationError as error:
        raise QuantizationError(f"{folder / FILE} is damaged: {error}; {AGAIN}.") from error


def _sidecar(document: Mapping[str, Any]) -> Sidecar:
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise QuantizationError(f"it is not version {VERSION} of a {FORMAT}")
    recipe = _recipe(_object(document.get("recipe"), "recipe"))
    origin = _object(document.get("provenance"), "provenance")
    layers = _object(document.get("layers"), "layers")
    return Sidecar(
        recipe=recipe,
        dtype=_text(document.get("dtype"), "dtype"),
        denoiser=_object(document.get("denoiser"), "denoiser"),
        provenance=Provenance(
            _text(origin.get("base"), "base"),
            _texts(origin.get("weight_sha256"), "weight_sha256"),
            _object(origin.get("calibration"), "calibration"),
        ),
        versions=_texts(document.get("versions"), "versions"),
        stored_bytes=_count(document.get("stored_bytes"), "stored_bytes"),
        layers={name: _layer(_object(entry, "layer"), len(recipe.rules)) for name, entry in layers.items()},
        files=_texts(document.get("files"), "files"),
    )


# --- recipes -----------------------------------------------------------------------------------


def _recipe_as_json(recipe: Recipe) -> dict[str, Any]:
    """Every field of the recipe and its rules, formats by name."""
    rules = [{f.name: _plain(getattr(rule, f.name)) for f in fields(rule)} for rule in recipe.rules]
    return {f.name: _plain(getattr(recipe, f.name)) for f in fields(recipe)} | {"rules": rules}


def _plain(value: object) -> object:
    if not isinstance(value, QType):
        return list(value) if isinstance(value, tuple) else value
    if FORMATS.get(value.name) != value:
        raise QuantizationError(f"The format {value.name} is not one of {', '.join(FORMATS)}: it cannot be stored.")
    return value.name


def _recipe(entry: Mapping[str, Any]) -> Recipe:
    _only(entry, Recipe)
    return Recipe(
        name=_text(entry.get("name"), "name"),
        rules=tuple(_rule(_object(rule, "rule")) for rule in _list(entry.get("rules"), "rules")),
        text_rows=_format(entry.get("text_rows")),
        probabilities=_format(entry.get("probabilities")),
        protect=tuple(_choice(row, get_args(Protected), "protect") for row in _list(entry.get("protect"), "protect")),
    )


def _rule(entry: Mapping[str, Any]) -> Rule:
    _only(entry, Rule)
    group = entry.get("group")
    return Rule(
        pattern=_text(entry.get("pattern"), "pattern"),
        weight=_format(entry.get("weight")),
        activation=_format(entry.get("activation")),
        group=None if group is None else _count(group, "group"),
        segments=_flag(entry.get("segments"), "segments"),
        dual=_flag(entry.get("dual"), "dual"),
        reason=_text(entry.get("reason"), "reason"),
    )


def _layer_as_json(layer: StoredLayer) -> dict[str, Any]:
    segments = layer.segments
    given = {"inputs": list(segments.inputs), "outputs": list(segments.outputs), "after": segments.after}
    return {"rule": layer.rule} | {name: value for name, value in given.items() if value}


def _layer(entry: Mapping[str, Any], rules: int) -> StoredLayer:
    rule, after = entry.get("rule"), entry.get("after")
    if rule is not None and _count(rule, "rule") >= rules:
        raise QuantizationError(f"a layer follows rule {rule} of {rules}")
    after = None if after is None else _choice(after, get_args(After), "after")
    return StoredLayer(rule, Segments(_widths(entry, "inputs"), _widths(entry, "outputs"), after))


def _widths(entry: Mapping[str, Any], side: str) -> tuple[int, ...]:
    return tuple(_count(width, side) for width in _list(entry.get(side, []), side))


# --- values of a type --------------------------------------------------------------------------


def _only(entry: Mapping[str, Any], record: type) -> None:
    known = {f.name for f in fields(record)}
    if entry.keys() != known:
        raise QuantizationError(f"{', '.join(sorted(entry.keys() ^ known))[:MAX_TEXT]} of {record.__name__} do not fit")


def _object(value: object, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise QuantizationError(f"its {what} is no object")


def _list(value: object, what: str) -> list[Any]:
    if isinstance(value, list):
        return value
    raise QuantizationError(f"its {what} is no list")


def _text(value: object, what: str) -> str:
    if isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable():
        return value
    raise QuantizationError(f"its {what} is no plain text")


def _texts(value: object, what: str) -> dict[str, str]:
    return {_text(name, what): _text(text, what) for name, text in _object(value, what).items()}


def _count(value: object, what: str) -> int:
    if type(value) is int and 0 <= value < 2**48:
        return value
    raise QuantizationError(f"its {what} is no count")


def _flag(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise QuantizationError(f"its {what} is neither true nor false")


def _choice(value: object, choices: tuple[Any, ...], what: str) -> Any:
    if value in choices:
        return value
    raise QuantizationError(f"its {what} is none of {', '.join(choices)}")


def _format(value: object) -> QType | None:
    if value is None:
        return None
    if isinstance(value, str) and value in FORMATS:
        return FORMATS[value]
    raise QuantizationError("it names a number format that there is not")
