"""Karpathy's division of COCO, Flickr8k and Flickr30k: dataset_NAME.json, with captions, beside the images.

COCO's images may be 2014's, as the file names them, or 2017's, whose names are their numbers.
"""

import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dualcap_jax.data.archives import ArchiveFolder, File, Place
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.names import look_up
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import Entry, add_caption, get, is_id, is_name, with_captions
from dualcap_jax.data.sources.places import FLICKR, find_file, find_places
from dualcap_jax.data.sources.texts import read_json

NAME = "dataset_{coco,flickr8k,flickr30k}.json (Karpathy)"
MEND = "Give some of its images the split '{split}' in the file"
FILES = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json")
SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
YEAR_2017 = ("train2017", "val2017", "images/train2017", "images/val2017")

Candidates = Callable[[Mapping[str, Any]], list[tuple[Place, str]]]
"""Where an image may lie that the file describes so, and its name there."""


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return bool(_files(root))


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    candidates = _candidates(root)
    parts = read_karpathy(_choose(root, candidates), candidates, faults)
    entries = [entry for part, found in parts.items() if SPLITS[part] == split for entry in found]
    return entries, sorted({SPLITS[part] for part, found in parts.items() if found})


def read_karpathy(file: File, candidates: Candidates, faults: Faults) -> dict[str, list[Entry]]:
    """The images of each of Karpathy's splits: train, restval, val and test, as far as they have any.

    Args:
        file: dataset_NAME.json.
        candidates: where images may lie.
        faults: what to do about faults.

    Raises:
        DataError: it is no such file; other faults as `faults` has it.
    """
    content = read_json(file)
    rows = get(content, "images")
    if not isinstance(rows, list):
        raise DataError(f"{file}: not Karpathy's {file.name}: it has no list of 'images'; download it again")
    parts: dict[str, list[Entry]] = {part: [] for part in SPLITS}
    seen: set[int] = set()
    for position, row in enumerate(rows):
        where = f"{file.name}: images[{position}]"
        image_id = next((get(row, key) for key in ("cocoid", "imgid") if get(row, key) is not None), position)
        sentences, part = get(row, "sentences"), get(row, "split")
        if not is_id(image_id) or not isinstance(sentences, list) or not (tried := candidates(row)):
            faults.report("malformed image", f"{where}: needs 'filename', 'cocoid' or 'imgid', and 'sentences'")
        elif part not in parts:
            faults.report("malformed image", f"{where}: split '{part}' is none of {', '.join(parts)}")
        elif image_id in seen:
            faults.report("duplicate id", f"{where}: image {image_id} is listed twice")
        elif (found := look_up(tried)).file is None:
            seen.add(image_id)
            faults.report("missing image", f"{where}: image '{found.name}' {found.trouble}")
        else:
            seen.add(image_id)
            entry = Entry(image_id, posixpath.basename(found.name), found.file)
            for number, sentence in enumerate(sentences):
                caption_id = get(sentence, "sentid")
                number = caption_id if is_id(caption_id) else number
                add_caption(entry, number, get(sentence, "raw"), where, faults)
            parts[part].append(entry)
    usable = {part: with_captions(entries, file.name, faults) for part, entries in parts.items()}
    return {part: entries for part, entries in usable.items() if entries}


def _candidates(root: Path) -> Candidates:
    """By the folder that the file names; in one folder; by 2017's names."""
    roots = [root, *find_places(root, "images")]
    flat = [*find_places(root, *FLICKR), root]
    numbered = find_places(root, *YEAR_2017)
    zipped = {
        folder: [place for place in find_places(root, folder, f"images/{folder}") if isinstance(place, ArchiveFolder)]
        for folder in ("train2014", "val2014")
    }

    def candidates(row: Mapping[str, Any]) -> list[tuple[Place, str]]:
        folder, name, number = row.get("filepath"), row.get("filename"), row.get("cocoid")
        found: list[tuple[Place, str]] = []
        if is_name(name):
            if is_name(folder):
                found += [(place, f"{folder}/{name}") for place in roots]
                found += [(place, name) for place in zipped.get(folder, [])]
            found += [(place, name) for place in flat]
        if is_id(number):
            found += [(place, f"{number:012d}.jpg") for place in numbered]
        return found

    return candidates


def _files(root: Path) -> list[File]:
    places = [root, *find_places(root, "annotations", "caption_datasets")]
    return [file for name in FILES if (file := find_file(places, name))]


def _choose(root: Path, candidates: Candidates) -> File:
    """The one file, or of several the one whose images are there.

    Raises:
        DataError: there are several such.
    """
    files = _files(root)
    if len(files) == 1:
        return files[0]
    fitting = [file for file in files if _has_images(file, candidates)]
    if len(fitting) != 1:
        raise DataError(f"data.root='{root}' holds {' and '.join(file.name for file in files)}: keep one of them")
    return fitting[0]


def _has_images(file: File, candidates: Candidates) -> bool:
    rows = get(read_json(file), "images")
    return bool(rows) and isinstance(rows[0], dict) and look_up(candidates(rows[0])).file is not None
