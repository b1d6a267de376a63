"""Files of captions, by their endings: written whole or not at all, and read back to go on with."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualcap_jax.bulk.inputs import parquet
from dualcap_jax.errors import ConfigError
from dualcap_jax.files import replacing

Row = dict[str, Any]
"""Of an image: `image` (its name), `caption`, `score`, `log_prob`; `words` and `others`, where they were asked for."""

COLUMNS = ("image", "caption", "score", "log_prob")
"""Of a table: a row for each caption, those of an image one after the other, the best first."""

MANY = 10_000
"""Rows that are written to a Parquet file at a time."""


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    write: Callable[[Path, Iterable[Row]], None]
    read: Callable[[Path], Iterator[Row]]
    """May raise ValueError or KeyError for what is no such file."""


def flat(rows: Iterable[Row]) -> Iterator[Row]:
    """A row for each caption."""
    for row in rows:
        for caption in (row, *row.get("others", ())):
            yield {"image": row["image"], **{name: caption[name] for name in COLUMNS[1:]}}


def nested(captions: Iterable[Row]) -> Iterator[Row]:
    """The reverse of `flat`."""
    row: Row | None = None
    for caption in captions:
        if row is not None and caption["image"] == row["image"]:
            row.setdefault("others", []).append({name: caption[name] for name in COLUMNS[1:]})
            continue
        if row is not None:
            yield row
        row = dict(caption)
    if row is not None:
        yield row


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> Iterator[Row]:
    """See `Format`."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            row["image"], row["caption"]
            yield row


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """A table, with its columns' names above."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(flat(rows))


def read_csv(path: Path) -> Iterator[Row]:
    """See `Format`."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(reader.fieldnames or ()) or 'none'}")
        numbers = ({**row, "score": float(row["score"]), "log_prob": float(row["log_prob"])} for row in reader)
        yield from nested(numbers)


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """The same table."""
    arrow, pq = parquet()
    kinds = zip(COLUMNS, (arrow.string(), arrow.string(), arrow.float64(), arrow.float64()), strict=True)
    schema, some = arrow.schema(list(kinds)), []
    with pq.ParquetWriter(path, schema) as writer:
        for row in flat(rows):
            some.append(row)
            if len(some) == MANY:
                writer.write_table(arrow.Table.from_pylist(some, schema))
                some = []
        writer.write_table(arrow.Table.from_pylist(some, schema))


def read_parquet(path: Path) -> Iterator[Row]:
    """See `Format`."""
    file = parquet()[1].ParquetFile(path)
    if tuple(file.schema_arrow.names) != COLUMNS:
        raise ValueError(f"its columns are {', '.join(file.schema_arrow.names)}")
    yield from nested(row for batch in file.iter_batches() for row in batch.to_pylist())


def image_id(name: str) -> int:
    """The number that COCO's file names end in: 139 of "val2017/000000000139.jpg".

    Raises:
        ValueError: it ends in none.
    """
    stem = Path(name).stem
    digits = stem[len(stem.rstrip("0123456789")) :]
    if not digits:
        raise ValueError(f"{name}: its name does not end in a number, which COCO's results tell images by")
    return int(digits)


def write_coco(path: Path, rows: Iterable[Row]) -> None:
    """COCO's results: what pycocotools' `loadRes` reads. Each image's best caption alone."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            result = {"image_id": image_id(row["image"]), "caption": row["caption"], "file_name": row["image"]}
            file.write(",\n" * (number > 0) + json.dumps(result | {name: row[name] for name in COLUMNS[2:]}))
        file.write("]\n")


def read_coco(path: Path) -> Iterator[Row]:
    """See `Format`."""
    for result in json.loads(path.read_text(encoding="utf-8")):
        yield {"image": result["file_name"], **{name: result[name] for name in COLUMNS[1:]}}


FORMATS = {
    ".jsonl": Format(write_jsonl, read_jsonl),
    ".csv": Format(write_csv, read_csv),
    ".parquet": Format(write_parquet, read_parquet),
    ".json": Format(write_coco, read_coco),
}


def format_of(path: Path) -> Format:
    """The format of a file, by its ending.

    Raises:
        ConfigError: it is none that is known.
    """
    if (found := FORMATS.get(path.suffix.lower())) is None:
        kinds = ".jsonl, .csv, .parquet, or .json for COCO's results"
        raise ConfigError(f"--out {path}: its ending must be {kinds}")
    return found


def read(path: Path) -> Iterator[Row]:
    """What `write` wrote.

    Raises:
        ConfigError: the file is something else.
    """
    try:
        yield from format_of(path).read(path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        told = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        raise ConfigError(
            f"--out {path}: exists, and holds no captions in this format ({told}); give another name, or --overwrite "
            "True"
        ) from None


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write a file of captions, whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    with replacing(path) as partial:
        format_of(path).write(partial, rows)
