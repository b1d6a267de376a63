"""Lists as LAVIS and BLIP have them: a JSON file a split, `[{"image": "a.jpg", "caption": "...", "image_id": 1}, ...]`.

A caption may be a list of captions. The images lie in images/, or beside the lists.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import (
    Entry,
    Line,
    among,
    coco_number,
    get,
    is_name,
    split_of,
    split_of_file,
)
from dualcap_jax.data.sources.places import FLICKR, find_places
from dualcap_jax.data.sources.texts import read_json, read_start

NAME = "*_{train,val,test}.json with lists of images (LAVIS, BLIP)"
MEND = "Put a list of the images of '{split}' beside the others, named like them"
BEGINNING = re.compile(r'\s*\[\s*\{(?=[^}]*"image"\s*:)(?=[^}]*"caption"\s*:)')


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return bool(_lists(root))


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    lists = _lists(root)
    find = among([*find_places(root, *FLICKR), root, *find_places(root, "annotations")])
    lines = (line for path in lists for line in _lines(path, len(lists) > 1, faults))
    source = ", ".join(path.name for path in lists)
    entries, splits = split_of(lines, find, source, config, split, faults)
    numbers = [coco_number(entry.filename) for entry in entries]
    if len(set(numbers) - {None}) == len(entries):
        for entry, number in zip(entries, numbers, strict=True):
            entry.image_id = number or 0
    return entries, splits


def _lists(root: Path) -> list[Path]:
    return [
        path for pattern in ("*.json", "annotations/*.json") for path in sorted(root.glob(pattern)) if _is_list(path)
    ]


def _is_list(path: Path) -> bool:
    if not path.is_file():
        return False
    return BEGINNING.match(read_start(path)) is not None


def _lines(path: Path, several: bool, faults: Faults) -> Iterator[Line]:
    """`several`: whether there are other lists, so that the name must tell the split."""
    split = split_of_file(path.stem)
    if several and split is None:
        raise DataError(f"{path}: no split in its name, as in coco_karpathy_train.json; name it so, or move it away")
    rows = read_json(path)
    for position, row in enumerate(rows if isinstance(rows, list) else []):
        where = f"{path.name}: [{position}]"
        image, caption = get(row, "image"), get(row, "caption")
        if not is_name(image) or caption is None:
            faults.report("malformed line", f'{where}: is not {{"image": "NAME", "caption": "..."}}')
        else:
            yield where, image, caption if isinstance(caption, list) else [caption], split
