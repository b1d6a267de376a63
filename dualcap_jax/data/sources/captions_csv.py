"""A folder with captions.csv, and the images beside it.

It has the columns image and caption, and perhaps split.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import Entry, Line, is_name, split_of

NAME = "captions.csv"


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return (root / NAME).is_file()


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    path = Path(config.root) / NAME
    return split_of(_lines(path, faults), path, config, split, faults)


def _lines(path: Path, faults: Faults) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if not {"image", "caption"} <= set(columns):
                raise DataError(f"{path}: needs columns 'image' and 'caption', separated by commas; has {columns}")
            for row in rows:
                where = f"{path.name}:{rows.line_num}"
                if not is_name(row["image"]) or row["caption"] is None or None in row:
                    message = f"needs {len(columns)} values (quote a caption that has a comma)"
                    faults.report("malformed line", f"{where}: {message}")
                    continue
                yield where, row["image"], [row["caption"]], row.get("split") or None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not CSV ({error})") from None
