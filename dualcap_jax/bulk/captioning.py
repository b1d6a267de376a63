"""Captioning of many images: read and decoded beside the search, noted as they come, written in the order asked for."""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dualcap_jax import cli
from dualcap_jax.bulk.inputs import Item, Told, content_of
from dualcap_jax.bulk.journal import Journal
from dualcap_jax.bulk.outputs import Row, format_of, image_id, read, write
from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.data.reading import map_ahead
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.files import require_writable, write_text
from dualcap_jax.owners import owned


def announced(captions: Iterator[Caption]) -> Iterator[Caption]:
    """The same; tells what the first is waited for."""
    with cli.telling_when_slow("compiling encoder and search for this device"):
        first = next(captions, None)
    if first is not None:
        yield first
        yield from captions


class Reader:
    """Decodes images ahead of what is asked for: iterated, it gives uint8 [size, size, 3] of each that can be read.

    Args:
        items: the images.
        captioner: whose transform they go through.
        fail: takes the name of one that can't be read, and the reason.
        ahead: how many to have decoded before they are asked for; with a batch, the search of one waits for none.
    """

    def __init__(self, items: Iterable[Item], captioner: Captioner, fail: Told, ahead: int = 0):
        self._items, self._transform, self._fail = items, captioner.config.data.transform, fail
        self._ahead = ahead
        self.read: deque[Item] = deque()
        """Those that were given and not yet captioned; who captions them takes them out."""

    def _decode(self, item: Item) -> tuple[Item, np.ndarray | str]:
        try:
            return item, self._transform.decode(content_of(item), str(item))
        except (OSError, ValueError) as error:  # ValueError: no image, or a name that no file can have
            return item, str(getattr(error, "strerror", None) or error)

    def __iter__(self) -> Iterator[np.ndarray]:
        cores = os.cpu_count() or 1
        threads = max(cores // 2, 1) if jax.default_backend() == "cpu" else cores  # there the search needs them too
        for item, image in map_ahead(self._decode, self._items, threads, self._ahead):
            if isinstance(image, str):
                self._fail(str(item), image)
            else:
                self.read.append(item)
                yield image


def row_of(item: Item, caption: Caption) -> Row:
    """What is written of an image."""
    values = [as_json(each) for each in (caption, *caption.others)]
    return {"image": str(item), **values[0], **({"others": values[1:]} if values[1:] else {})}


def as_json(caption: Caption) -> dict[str, Any]:
    """What is written of a caption."""
    words = [
        {"word" if name == "text" else name: value for name, value in vars(word).items()} | {"seen": word.seen}
        for word in caption.words
    ]
    values = {"caption": caption.text, "score": caption.score, "log_prob": caption.log_prob}
    return values | ({"words": words} if words else {})


Rows = Callable[[Sequence[Item], Told], Iterator[Row]]
"""Captions images, in any order; tells of those that can't be read."""


def rows_here(captioner: Captioner, decoding: DecodingConfig, explain: bool) -> Rows:
    """What captions images by the devices of this process, in order."""

    def rows(items: Sequence[Item], fail: Told) -> Iterator[Row]:
        reader = Reader(items, captioner, fail, decoding.batch_size)
        for caption in announced(captioner.caption_prepared(reader, decoding, explain)):
            yield row_of(reader.read.popleft(), caption)

    return rows


def shown(rows: Iterator[Row], known: int, count: int) -> Iterator[Row]:
    """The same, under a progress bar.

    Args:
        rows: of images.
        known: how many others were captioned before.
        count: how many there may be now.
    """
    with tqdm(total=known + count, initial=known, unit=" images", disable=None, smoothing=0.1) as bar:
        for row in rows:
            yield row
            bar.update()


def caption_into(
    out: Path,
    rows: Rows,
    items: Sequence[Item],
    failed: dict[str, str],
    about: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Caption images into a file; those that it has already are left as they are.

    The file is written whole, at the end; until then a journal beside it, OUT.part, holds what is done. What can't be
    read is listed in OUT.errors.jsonl with its reason, and tried again the next time.

    Args:
        out: the file; its ending tells the format.
        rows: captions images.
        items: the images, each once.
        failed: what could not be found, with its reason; to it comes what can't be read.
        about: what captions hang on, to be the same when a captioning goes on.
        overwrite: caption anew what the file has already.

    Raises:
        ConfigError: the ending is not known, the file holds something else, or names do not do for COCO's results.
        Owned: another process writes it.
        DiskFull: no room is left; what is done is safe.
    """
    format_of(out)
    require_writable(out)
    part, errors = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.errors.jsonl")
    if out.suffix.lower() == ".json":
        require_numbers(items)
    with owned(out.with_name(f".{out.name}.lock"), str(out)):
        if overwrite:
            part.unlink(missing_ok=True)
        elif out.exists():
            deque(read(out), maxlen=0)  # before anything is written
        with Journal(part, about) as journal:
            if out.exists() and not overwrite:
                journal.add(row for row in read(out) if row["image"] not in journal)
            missing = [item for item in items if str(item) not in journal]
            known = len(items) - len(missing)
            journal.add(shown(rows(missing, failed.__setitem__), known, len(missing)))
            if missing or not out.exists():
                asked = dict.fromkeys(name for name in map(str, items) if name in journal)
                write(out, (journal[name] for name in (*asked, *(name for name in journal if name not in asked))))
            done = len(journal)
        part.unlink()
    if failed:
        lines = (json.dumps({"image": name, "error": reason}) + "\n" for name, reason in failed.items())
        write_text(errors, "".join(lines))
        print(f"no caption: {len(failed):,}, listed with reasons in {errors}", file=sys.stderr)
    else:
        errors.unlink(missing_ok=True)
    print(f"written: {out}: {done:,} images{f', {known:,} of them before' if known else ''}")


def caption_beside(
    suffix: str,
    rows: Rows,
    items: Sequence[Item],
    failed: dict[str, str],
    prefix: str = "",
    overwrite: bool = False,
) -> None:
    """Write each image's best caption into a text file beside it; what is there already is left as it is.

    Args:
        suffix: of these files, such as ".txt".
        rows: captions images.
        items: the images, each once.
        failed: what could not be found, with its reason; to it comes what can't be read or has no place of its own.
        prefix: text before each caption.
        overwrite: write anew what is there already.
    """
    places: dict[Path, Item] = {}
    for item in items:
        if not isinstance(item, Path):
            failed[str(item)] = "lies in an archive: there is no place beside it; give --out FILE"
        elif (place := item.with_suffix(suffix)) in places:
            failed[str(item)] = f"{places[place]} has the same text file, {place.name}; rename one of them"
        else:
            places[place] = item
    missing = [item for place, item in places.items() if overwrite or not place.exists()]
    known = len(places) - len(missing)
    for row in shown(rows(missing, failed.__setitem__), known, len(missing)):
        place = Path(row["image"]).with_suffix(suffix)
        partial = place.with_name(f".{place.name}.partial")
        partial.write_text(f"{prefix}{row['caption']}\n", encoding="utf-8", errors="backslashreplace")
        partial.replace(place)
    for name, reason in failed.items():
        print(f"{printable(name)}: {reason}", file=sys.stderr)
    print(f"written: {len(places):,} {suffix} files{f', {known:,} of them before' if known else ''}")


def printable(name: str) -> str:
    """A name for a line of text: what no terminal shows, such as a line's end or a byte that is no UTF-8, escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)


def require_numbers(items: Iterable[Item]) -> None:
    """See whether COCO's results can tell images apart.

    Raises:
        ConfigError: an image's name does not end in a number, or two end in the same one.
    """
    names: dict[int, str] = {}
    for name in map(str, items):
        try:
            other = names.setdefault(image_id(name), name)
        except ValueError as error:
            raise ConfigError(f"{error}; give --out a name that ends in .jsonl, .csv or .parquet") from None
        if other != name:
            raise ConfigError(f"{name} and {other}: have the same number for COCO's results; write them to two files")
