"""Which files belong together: weights with their folder, companions, picture and sidecars. It opens none of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from personalq.catalog import lists, sidecar
from personalq.catalog.tree import PIPELINE, Tree
from personalq.catalog.weights import DENOISER_FOLDERS, GENERIC_STEM, SUFFIXES

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
DENOISER_FILE = re.compile(r"diffusion_pytorch_model(?:\.\w+)?\.(?:safetensors|bin)")
GENERIC_FOLDER = re.compile(r"checkpoint-\d+|unet|transformer|lora|loras?|outputs?|weights|model", re.IGNORECASE)
COMPANION = re.compile(r"(.+)_emb(?:eddings?)?|learned_embeds(?:-steps-\d+)?|embeddings?", re.IGNORECASE)
OTHER_JSON = re.compile(
    r"(?:model_index|config|tokenizer|vocab|special_tokens_map|added_tokens|trainer_state|.*_config|.*\.index)\.json",
    re.IGNORECASE,
)
CONFIG_WE_READ = "adapter_config.json"


@dataclass(frozen=True)
class Unit:
    """The files of one checkpoint. `folder` is where its sidecars lie, `whole` whether it is a diffusers folder."""

    weights: Path
    folder: Path
    whole: bool = False
    companions: tuple[Path, ...] = ()
    picture: Path | None = None

    @property
    def name(self) -> str:
        """The stem, or the folder's name when the stem says nothing."""
        if not self.whole and not GENERIC_STEM.fullmatch(self.weights.stem):
            return self.weights.stem
        if GENERIC_FOLDER.fullmatch(self.folder.name):
            return f"{self.folder.parent.name} {self.folder.name}"
        return self.folder.name


def find(tree: Tree) -> tuple[list[Unit], list[tuple[Path, str]]]:
    """The units of a tree, in the order of their files, and the pipeline folders that hold no weights."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in tree.files:
        folders[file.parent].append(file)
    homes: dict[Path, list[Path]] = {folder: [] for folder, files in folders.items() if _named(files, PIPELINE)}
    for folder, files in folders.items():
        if folder.name in DENOISER_FOLDERS and folder != tree.root:
            found = [file for file in files if DENOISER_FILE.fullmatch(file.name)]
            if found:
                homes.setdefault(folder.parent, []).extend(sorted(found, key=_preference))
    units, problems = [], []
    for home, found in homes.items():
        if found:
            units.append(Unit(found[0], home, True, (), _picture(_by_name(folders.get(home, [])), home.name)))
        else:
            problems.append((home / PIPELINE, "Its folder holds no denoiser weights; complete or remove it."))
    for folder, files in folders.items():
        denoiser = folder.name in DENOISER_FOLDERS and homes.get(folder.parent)
        component = any(homes.get(home) and _named(folders.get(home, []), PIPELINE) for home in (folder, folder.parent))
        if not denoiser and not component:
            units += _loose(folder, [file for file in files if file.suffix.lower() in SUFFIXES], files)
    return sorted(units, key=lambda unit: unit.weights), problems


def _loose(folder: Path, weights: Sequence[Path], files: Sequence[Path]) -> list[Unit]:
    """The units of a folder of single files; an embedding trained together with a LoRA is the LoRA's companion."""
    main = {file.stem: file for file in weights if not COMPANION.fullmatch(file.stem)}
    names = _by_name(files)
    owned: dict[Path, list[Path]] = defaultdict(list)
    for file in weights:
        match = COMPANION.fullmatch(file.stem)
        owner = main.get(match[1]) if match and match[1] else next(iter(main.values())) if len(main) == 1 else None
        if match and owner:
            owned[owner].append(file)
    companions = {file for group in owned.values() for file in group}
    return [
        Unit(file, folder, False, tuple(owned.get(file, ())), _picture(names, file.stem))
        for file in weights
        if file not in companions
    ]


def _by_name(files: Sequence[Path]) -> dict[str, Path]:
    return {file.name.casefold(): file for file in files}


def _named(files: Sequence[Path], name: str) -> bool:
    return any(file.name == name for file in files)


def _preference(file: Path) -> tuple[bool, int, str]:
    return file.suffix != ".safetensors", len(file.name), file.name


def _picture(names: Mapping[str, Path], stem: str) -> Path | None:
    """The picture beside the weights: `<stem>.preview.png`, `<stem>.png`, else `preview.png` of the folder."""
    wanted = (f"{start}{suffix}".casefold() for start in (f"{stem}.preview", stem, "preview") for suffix in PICTURES)
    return next((names[name] for name in wanted if name in names), None)


def sidecars(tree: Tree, units: Sequence[Unit]) -> list[Path]:
    """The files in the units' folders, and the lists above them, that may describe them."""
    folders = {unit.folder for unit in units}
    above = {parent for folder in folders for parent in folder.parents}
    return [
        file
        for file in tree.files
        if (file.parent in folders or (file.parent in above and lists.FILE.fullmatch(file.name)))
        and (file.name.casefold() == sidecar.CARD or sidecar.stem(file) is not None)
        and (not OTHER_JSON.fullmatch(file.name) or file.name == CONFIG_WE_READ)
    ]
