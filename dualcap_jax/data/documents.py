"""Texts without images, which a language model alone learns from: out of text files, captions files, data roots."""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from dualcap_jax.data.folders import read_file
from dualcap_jax.data.reading import ReadingConfig
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources import fitting, open_source
from dualcap_jax.data.sources.csv_rows import read_csv
from dualcap_jax.data.sources.entries import SPLIT_NAMES, get
from dualcap_jax.data.text import normalize_caption

Group = tuple[str, ...]
"""Documents that belong together, such as the captions of one image: all of them are trained on, or none."""
Row = tuple[str, object]
"""Of a captions file: its place, for messages, and what stands there: a caption, or an object that holds some."""


@dataclass(frozen=True)
class Texts:
    """What a source of text holds, white space evened out."""

    groups: list[Group]
    """None of them empty."""
    of_other_splits: int = 0
    """Captions that were left out: they are kept for validation or testing."""

    @property
    def documents(self) -> int:
        """How many there are."""
        return sum(map(len, self.groups))


def read_texts(source: str, faults: Faults) -> Texts:
    """Read a source of text.

    Args:
        source: a text file (a document a line), a captions file (JSON, JSON lines or CSV), or a data root, of which
            the training split is read.
        faults: what to do about captions that are empty or no text.

    Raises:
        DataError: it is not there, of no kind known here, broken, or holds no text.
    """
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file or directory")
    if not path.is_dir() and path.suffix.lower() not in _READERS:
        raise DataError(
            f"{source}: a file of no kind known here; name it .txt (a document a line), .json, .jsonl or .csv "
            "(captions), or give a directory of captioned images"
        )
    read = _read_root if path.is_dir() else _READERS[path.suffix.lower()]
    texts = read(path, faults)
    if not texts.groups:
        left_out = f"; {texts.of_other_splits:,} captions are of other splits" if texts.of_other_splits else ""
        raise DataError(f"{source}: holds no text to train on{left_out}")
    return texts


def hold_out(groups: Sequence[Group], share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Part what is trained on from what is held out: a share of the groups, drawn by the seed, at least one.

    Raises:
        DataError: there is but one group.
    """
    if len(groups) < 2:
        raise DataError("the text is one document (or the captions of one image): one is held out, so give two or more")
    number = min(max(round(share * len(groups)), 1), len(groups) - 1)
    held_out = set(np.random.default_rng(seed).permutation(len(groups))[:number].tolist())
    parts: tuple[list[Group], list[Group]] = [], []
    for place, group in enumerate(groups):
        parts[place in held_out].append(group)
    return parts


def _decoded(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None


def _read_lines(path: Path, faults: Faults) -> Texts:
    """A document a line; blank lines are passed over."""
    return Texts([(text,) for line in _decoded(path).split("\n") if (text := normalize_caption(line))])


def _read_json(path: Path, faults: Faults) -> Texts:
    """COCO's annotations, or a list of captions or of objects that hold some."""
    try:
        content: object = json.loads(_decoded(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not JSON ({error})") from None
    rows = content if isinstance(content, list) else get(content, "annotations")
    if not isinstance(rows, list):
        raise DataError(
            f'{path}: neither a list of captions or of objects with "caption", nor COCO\'s {{"annotations": [...]}}'
        )
    return _grouped(((f"{path.name}: entry {place}", row) for place, row in enumerate(rows)), faults)


def _read_json_lines(path: Path, faults: Faults) -> Texts:
    """A caption a line, or an object that holds some."""

    def rows() -> Iterator[Row]:
        for number, line in enumerate(_decoded(path).split("\n"), start=1):
            where = f"{path.name}:{number}"
            if line.strip():
                try:
                    yield where, json.loads(line)
                except (ValueError, RecursionError) as error:
                    faults.report("malformed line", f"{where}: not a line of JSON ({error})")

    return _grouped(rows(), faults)


def _read_csv(path: Path, faults: Faults) -> Texts:
    """Columns image and caption, and perhaps split."""
    rows = read_csv(path, "image", ("caption",), faults)
    return _grouped(
        ((where, {"image": image, "captions": captions, "split": split}) for where, image, captions, split in rows),
        faults,
    )


def _read_root(path: Path, faults: Faults) -> Texts:
    """The training split of captioned images."""
    source = open_source(fitting(str(path), ReadingConfig(on_error=faults.on_error)), "train")
    texts = Texts([source[place].captions for place in range(len(source))])
    faults.skipped |= source.faults.skipped
    return texts


_READERS: dict[str, Callable[[Path, Faults], Texts]] = {
    ".txt": _read_lines,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
}
"""By a file's ending."""


def _grouped(rows: Iterable[Row], faults: Faults) -> Texts:
    """The captions of rows, those of one image together, without those of validation and test."""
    groups: dict[Hashable, list[str]] = {}
    of_other_splits, alone = 0, count()
    for where, row in rows:
        captions = [row] if isinstance(row, str) else get(row, "captions")
        if not isinstance(captions, list):
            captions = [get(row, "caption")]
        split = get(row, "split")
        if split and SPLIT_NAMES.get(str(split)) != "train":
            of_other_splits += len(captions)
            continue
        image = next((get(row, key) for key in ("image", "image_id") if get(row, key) is not None), None)
        group = ("alone", next(alone)) if image is None else ("image", str(image))
        for caption in captions:
            if not isinstance(caption, str):
                faults.report("malformed caption", f'{where}: holds no text under "caption" or in "captions"')
            elif text := normalize_caption(caption):
                groups.setdefault(group, []).append(text)
            else:
                faults.report("empty caption", f"{where}: a caption is empty")
    return Texts([tuple(captions) for captions in groups.values()], of_other_splits)
