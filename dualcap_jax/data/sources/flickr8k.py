"""Flickr8k as its authors give it out: captions in Flickr8k.token.txt, splits in lists, zipped or not.

Flickr30k's results_20130124.token is of the same form.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.archives import File, Place
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.names import fold
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import Entry, Line, among, split_of
from dualcap_jax.data.sources.places import FLICKR, find_file, find_places
from dualcap_jax.data.sources.texts import read_lines

NAME = "Flickr8k.token.txt (Flickr8k)"
MEND = "List the images of '{split}' in Flickr_8k.{{train,dev,test}}Images.txt, beside Flickr8k.token.txt"
TOKENS = ("Flickr8k.token.txt", "results_20130124.token")
LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
WITHOUT_IMAGE = "2258277193_586949ec62.jpg.1"
"""Has captions in the published file, and no image."""

LINE = re.compile(r"(?P<image>.+?)#\d+\s+(?P<caption>.*)")


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return find_file(_texts(root), *TOKENS) is not None


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    file = find_file(_texts(root), *TOKENS)
    if file is None:
        raise DataError(f"{root}: holds none of {', '.join(TOKENS)}")
    places = [*find_places(root, *FLICKR), root]
    return split_of(_lines(root, file, faults), among(places), file.name, config, split, faults)


def _texts(root: Path) -> list[Place]:
    return [root, *find_places(root, "Flickr8k_text")]


def _lines(root: Path, file: File, faults: Faults) -> Iterator[Line]:
    """The captions of the images that some list names, or of all where there are no lists."""
    listed: dict[str, tuple[str, str, str]] = {}  # by folded name: as it is written, split, place in its list
    for split, name in LISTS.items():
        found = find_file(_texts(root), name)
        for number, line in read_lines(found, faults) if found else []:
            image, where = line.strip(), f"{name}:{number}"
            if image and (before := listed.setdefault(fold(image), (image, split, where)))[1] != split:
                message = f"image '{image}' is in {before[2]} too; take it out of one of the lists"
                faults.report("contradictory split", f"{where}: {message}")
    seen = set()
    for number, line in read_lines(file, faults):
        where = f"{file.name}:{number}"
        match = LINE.fullmatch(line)
        if match is None:
            if line.strip():
                message = "is not NAME#NUMBER, a tab, and a caption; put it in a line of its own"
                faults.report("malformed line", f"{where}: {message}")
            continue
        image, caption = match["image"].strip(), match["caption"]
        if listed and fold(image) not in listed:
            continue
        if image == WITHOUT_IMAGE:
            faults.note("missing image", f"{where}: image '{image}' was published without its file")
            continue
        seen.add(fold(image))
        yield where, image, [caption], listed[fold(image)][1] if listed else None
    for folded, (image, split, where) in listed.items():
        if folded not in seen:
            yield where, image, [], split
