"""WebDataset: tars of samples, NAME.jpg with its captions in NAME.txt, NAME.caption or NAME.json."""

import posixpath
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.archives import Member, members
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.folders import suffixes
from dualcap_jax.data.names import Found
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import Entry, Line, get, split_of, split_of_file, split_of_folder
from dualcap_jax.data.sources.texts import read_json, read_lines

NAME = "*.tar with images and their .txt, .caption or .json (webdataset)"
MEND = "Put the images of '{split}' into a tar with '{split}' in its name"
TEXTS = ("txt", "caption", "json")
CAPTIONS = ("caption", "captions", "text")


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return any(_image_of(sample) and any(map(sample.get, TEXTS)) for tar in _tars(root)[:1] for sample in _samples(tar))


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    images: dict[str, Member] = {}

    def find(name: str) -> Found:
        return Found(name, images[name], images[name])

    return split_of(_lines(root, images, faults), find, f"{root}/*.tar", config, split, faults)


def _tars(root: Path) -> list[Path]:
    return [path for pattern in ("*.tar", "*/*.tar") for path in sorted(root.glob(pattern))]


def _samples(tar: Path) -> list[dict[str, Member]]:
    """The files of each sample by their endings, from the first dot of their names."""
    samples: dict[str, dict[str, Member]] = {}
    for inner, member in members(tar).items():
        folder, name = posixpath.split(inner)
        stem, _, ending = name.partition(".")
        samples.setdefault(posixpath.join(folder, stem), {})[ending.lower()] = member
    return list(samples.values())


def _image_of(sample: dict[str, Member]) -> Member | None:
    return next((member for ending, member in sample.items() if f".{ending}" in suffixes()), None)


def _lines(root: Path, images: dict[str, Member], faults: Faults) -> Iterator[Line]:
    """Notes in `images` what the names that it gives stand for."""
    for tar in _tars(root):
        path = tar.relative_to(root)
        split = split_of_folder(path.parts[0]) or split_of_file(tar.stem)
        for sample in _samples(tar):
            image = _image_of(sample)
            if image is None:
                continue
            name = f"{path.as_posix()}/{image.inner}"
            images[name] = image
            text = next((sample[ending] for ending in TEXTS if ending in sample), None)
            yield name, name, _captions(text, faults) if text else [], split


def _captions(text: Member, faults: Faults) -> list[object]:
    if not text.name.lower().endswith(".json"):
        lines = read_lines(text, faults, name=f"{text.archive.name}/{text.inner}")
        return [line for _, line in lines if line.strip()]
    try:
        row = read_json(text)
    except DataError as error:
        faults.report("malformed line", f"{text.archive.name}/{error}")
        return []
    found: object = next((get(row, key) for key in CAPTIONS if get(row, key) is not None), [])
    return found if isinstance(found, list) else [found]
