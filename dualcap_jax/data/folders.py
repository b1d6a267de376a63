"""Reading the two layouts of a set on disk: COCO's, and a folder with captions.jsonl or captions.csv.

Each reader returns its entries by split, in the file's order, and reports every fault it meets. An entry is
(image id, file name, path, captions): the pictures themselves are not opened here.
"""

import csv
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import Path as ZipPath

from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.text import normalize_caption

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


@dataclass
class Entry:
    """One image as its layout lists it."""

    image_id: int
    filename: str
    path: Path | ZipPath
    captions: list[str] = field(default_factory=list)
    caption_ids: list[int] = field(default_factory=list)
    """The layout's own numbers of the captions, or their places in the file."""
    size: tuple[int, int] | None = None
    """Width and height, where the layout gives them."""


def find_coco_annotations(root: Path) -> dict[str, Path]:
    """The annotation file of each split of a COCO layout: captions_train2017.json is "train", and so on.

    Raises:
        DataError: two files for one split.
    """
    found: dict[str, Path] = {}
    for path in sorted(root.glob("annotations/captions_*.json")):
        name = path.stem.removeprefix("captions_")
        split = next((split for prefix, split in _SPLIT_NAMES.items() if name.startswith(prefix)), None)
        if split in found:
            raise DataError(f"{path.parent}: {found[split].name} and {path.name} are both for {split}: keep one")
        if split is not None:
            found[split] = path
    return found


def coco_pictures(annotations: Path) -> Path:
    """The directory of the pictures that annotations/captions_NAME.json is about: NAME/.

    Raises:
        DataError: there is none.
    """
    directory = annotations.parent.parent / annotations.stem.removeprefix("captions_")
    if not directory.is_dir():
        raise DataError(f"{annotations.name}: its pictures' directory '{directory}' does not exist")
    return directory


def read_coco(annotations: Path | ZipPath, directory: Path | ZipPath, faults: Faults) -> list[Entry]:
    """Read one split of COCO's captions.

    Args:
        annotations: captions_NAME.json.
        directory: of its pictures.
        faults: what to do about faults.

    Raises:
        DataError: no such JSON; other faults as `faults` has it.
    """
    try:
        content = json.loads(annotations.read_bytes())
        images, rows = list(content["images"]), list(content["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{annotations}: not COCO captions ({type(error).__name__}: {error})") from None

    entries: dict[int, Entry] = {}
    rejected: set[int] = set()  # images reported already: their captions are no faults of their own
    for position, image in enumerate(images):
        where = f"{annotations.name}: images[{position}]"
        image_id, filename = _get(image, "id"), _get(image, "file_name")
        if not _is_id(image_id) or not _is_name(filename):
            faults.report("malformed image", f"{where}: needs 'id', a whole number from 0, and 'file_name'")
        elif image_id in entries or image_id in rejected:
            faults.report("duplicate id", f"{where}: image id {image_id} was given before")
        elif not (directory / filename).is_file():
            rejected.add(image_id)
            faults.report("missing image", f"{where}: image '{filename}' does not exist (looked under {directory})")
        else:
            sides = _get(image, "width"), _get(image, "height")
            size = sides if all(isinstance(side, int) for side in sides) else None
            entries[image_id] = Entry(image_id, filename, directory / filename, size=size)

    seen: set[int] = set()
    for position, row in enumerate(rows):
        where = f"{annotations.name}: annotations[{position}]"
        number, image_id = _get(row, "id"), _get(row, "image_id")
        if not _is_id(number) or not _is_id(image_id):
            faults.report("malformed caption", f"{where}: needs 'id' and 'image_id', whole numbers from 0")
        elif number in seen:
            faults.report("duplicate id", f"{where}: annotation id {number} was given before")
        elif image_id in entries:
            seen.add(number)
            _add_caption(entries[image_id], number, _get(row, "caption"), where, faults)
        elif image_id not in rejected:
            faults.report("missing image", f"{where}: image id {image_id} is not among the file's images")
    return _with_captions(entries.values(), annotations.name, faults)


def read_captions_file(path: Path, faults: Faults, fraction: float, seed: int) -> dict[str, list[Entry]]:
    """Read captions.jsonl or captions.csv, with pictures beside it.

    A line of captions.jsonl is `{"image": "a.jpg", "captions": ["..."]}`, or has "caption" and one text.
    captions.csv has the columns image and caption. Either may give a "split" (train, validation or val, test;
    train where a line leaves it out); where no line does, the images are divided by chance. Lines with the same
    image add captions to it. An image's id is its place among the file's images, in order of first mention.

    Args:
        path: the file.
        faults: what to do about faults.
        fraction: share of the images for validation, where the file names no splits.
        seed: of that division, which depends on names alone, never on what else is broken.

    Returns:
        The entries of each split that has any.
    """
    lines = _csv_lines(path, faults) if path.suffix == ".csv" else _json_lines(path, faults)
    entries: dict[str, Entry] = {}
    splits: dict[str, str | None] = {}
    rejected: set[str] = set()
    numbers = itertools.count()
    for where, image, captions, split in lines:
        if split not in (None, *_SPLIT_NAMES):
            faults.report("malformed line", f"{where}: split '{split}' is none of train, validation, test")
            continue
        split = _SPLIT_NAMES[split] if split else None
        if image not in entries:
            entries[image] = Entry(len(entries), image, path.parent / image)
            splits[image] = split
            if not entries[image].path.is_file():
                rejected.add(image)
                faults.report("missing image", f"{where}: image '{image}' does not exist (looked under {path.parent})")
        elif (split or "train") != (splits[image] or "train"):
            faults.report("contradictory split", f"{where}: image '{image}' was in another split before")
            continue
        if image not in rejected:
            for caption in captions:
                _add_caption(entries[image], next(numbers), caption, where, faults)

    if not any(splits.values()):
        splits = _divide(list(entries), fraction, seed)
    usable = _with_captions((entry for image, entry in entries.items() if image not in rejected), path.name, faults)
    divided: dict[str, list[Entry]] = {}
    for entry in usable:
        divided.setdefault(splits[entry.filename] or "train", []).append(entry)
    return divided


Line = tuple[str, str, list[object], str | None]  # place for messages, image, captions, split


def _json_lines(path: Path, faults: Faults) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path.name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row: object = json.loads(text) if text else None
            except (ValueError, RecursionError) as error:
                faults.report("malformed line", f"{where}: not a line of JSON ({error})")
                continue
            if not text:
                continue
            image, captions, caption, split = (_get(row, key) for key in ("image", "captions", "caption", "split"))
            if captions is None and caption is not None:
                captions = [caption]
            if not isinstance(captions, list) or not _is_name(image):
                message = 'is not {"image": "NAME", "captions": ["...", ...]}'
                faults.report("malformed line", f"{where}: {message}")
                continue
            yield where, image, captions, None if split is None else str(split)


def _csv_lines(path: Path, faults: Faults) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if not {"image", "caption"} <= set(columns):
                raise DataError(f"{path}: needs columns 'image' and 'caption', separated by commas; has {columns}")
            for row in rows:
                where = f"{path.name}:{rows.line_num}"
                if not _is_name(row["image"]) or row["caption"] is None or None in row:
                    message = f"needs {len(columns)} values (quote a caption that has a comma)"
                    faults.report("malformed line", f"{where}: {message}")
                    continue
                yield where, row["image"], [row["caption"]], row.get("split") or None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not CSV ({error})") from None


def _get(row: object, key: str) -> Any:
    return row.get(key) if isinstance(row, dict) else None


def _is_id(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < 2**63


def _is_name(image: object) -> bool:
    return isinstance(image, str) and image != "" and "\x00" not in image


def _add_caption(entry: Entry, number: int, caption: object, where: str, faults: Faults) -> None:
    if not isinstance(caption, str):
        faults.report("malformed caption", f"{where}: a caption of image '{entry.filename}' is not text")
    elif text := normalize_caption(caption):
        entry.captions.append(text)
        entry.caption_ids.append(number)
    else:
        faults.report("empty caption", f"{where}: a caption of image '{entry.filename}' is empty")


def _with_captions(entries: Iterable[Entry], name: str, faults: Faults) -> list[Entry]:
    kept = []
    for entry in entries:
        if entry.captions:
            kept.append(entry)
        else:
            faults.report("image without captions", f"{name}: image '{entry.filename}' has no caption")
    return kept


def _divide(images: list[str], fraction: float, seed: int) -> dict[str, str | None]:
    """Part images by the rank of their hashes: the same images give the same parts in any order."""
    ranked = sorted(images, key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest())
    held_out = round(fraction * len(images))
    if fraction > 0 and len(images) > 1:
        held_out = min(max(held_out, 1), len(images) - 1)
    return {image: "validation" if rank < held_out else "train" for rank, image in enumerate(ranked)}
