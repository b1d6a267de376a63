"""A text beside each image: a.jpg with a.txt or a.caption, a line a caption, in folders of any name.

Such are sets for kohya's scripts, whose folders are named 10_shapes/.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.folders import find_images, suffixes
from dualcap_jax.data.names import fold
from dualcap_jax.data.records import Faults
from dualcap_jax.data.sources.entries import Entry, Line, among, split_of, split_of_folder
from dualcap_jax.data.sources.texts import read_lines

NAME = ".txt or .caption beside the images"
MEND = "Put some of its images, with their texts, into the folder {split}/"
ENDINGS = (".txt", ".caption")
DEPTH = 3
"""Folders that are looked into, one in the other, for a first such pair."""


def is_in(root: Path) -> bool:
    """See `Layout`."""
    for directory, folders, files in os.walk(root):
        if len(Path(directory).relative_to(root).parts) == DEPTH - 1:
            folders.clear()
        texts = {fold(Path(name).stem) for name in files if name.lower().endswith(ENDINGS)}
        if texts and any(Path(name).suffix.lower() in suffixes() and fold(Path(name).stem) in texts for name in files):
            return True
    return False


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    return split_of(_lines(root, faults), among([root]), str(root), config, split, faults)


def _lines(root: Path, faults: Faults) -> Iterator[Line]:
    found = find_images(root)
    for folder, reason in found.unreadable:
        faults.report("unreadable folder", f"{folder}: can't be read ({reason})")
    texts: dict[Path, dict[str, list[Path]]] = {}  # folder -> by folded stem
    for folder in dict.fromkeys(image.parent for image in found.images):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in ENDINGS:
                texts.setdefault(folder, {}).setdefault(fold(path.stem), []).append(path)
    stems = {(image.parent, fold(image.stem)) for image in found.images}
    for image in found.images:
        name = image.relative_to(root).as_posix()
        split = split_of_folder(image.relative_to(root).parts[0])
        yield name, name, [], split
        for text in texts.get(image.parent, {}).get(fold(image.stem), []):
            written = text.relative_to(root).as_posix()
            for number, line in read_lines(text, faults, name=written):
                if line.strip():
                    yield f"{written}:{number}", name, [line], split
    for folder, by_stem in texts.items():
        for text in (text for stem, paths in by_stem.items() if (folder, stem) not in stems for text in paths):
            faults.note("text without image", f"{text.relative_to(root)}: no image of this name is beside it")
