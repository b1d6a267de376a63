"""Reading sets that scripts/prepare_coco.py wrote: records of tensorflow-datasets in array_record files."""

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError, Faults, Record

PARTS = {"train": ("train", "restval"), "validation": ("validation", "val"), "test": ("test",)}
"""Our splits, and what they are made of where it is there: Karpathy's restval is trained on too."""
SETS = ("coco_captions_2017", "folder_captions")
"""Names of the builders."""


class RecordsSource:
    """Records of one split of a prepared set; pictures are read with their records. See `Source`."""

    def __init__(self, directory: Path, parts: Sequence[str], faults: Faults):
        """`directory`: of one version of the set. `parts`: its splits that are read, one after the other."""
        import tensorflow_datasets as tfds  # most of a second, which other sets need not wait for

        self.directory, self.faults = directory, faults
        metadata = read_metadata(directory)
        self.cropped = metadata["pictures"] is not None
        self._index = [metadata["splits"][part] for part in parts]
        builder = tfds.builder_from_directory(str(directory))
        decoders = {"image": tfds.decode.SkipDecoding()}
        self._data = [builder.as_data_source(split=part, decoders=decoders) for part in parts]
        self._ends = list(accumulate(len(part["captions"]) for part in self._index))
        for part, data, index in zip(parts, self._data, self._index, strict=True):
            if len(data) != len(index["captions"]):
                raise DataError(f"{directory}: {part} holds {len(data)} records, not {len(index['captions'])}")

    def __len__(self) -> int:
        """Number of images."""
        return self._ends[-1]

    def example(self, index: int) -> dict[str, Any]:
        """Everything that the record at a position holds, as tensorflow-datasets gives it."""
        part = next(part for part, end in enumerate(self._ends) if index < end)
        return self._data[part][index - (self._ends[part - 1] if part else 0)]

    def __getitem__(self, index: int) -> Record:
        """The record at a position."""
        example = self.example(index)
        captions = tuple(text.decode() for text in example["captions"]["text"])
        image = example["image"]
        size = int(example["width"]), int(example["height"])
        return Record(int(example["image_id"]), example["filename"].decode(), captions, lambda: image, size)

    @cached_property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record."""
        return np.array(list(chain.from_iterable(part["captions"] for part in self._index)))

    @property
    def filenames(self) -> list[str]:
        """Name of each record's picture."""
        return list(chain.from_iterable(part["filenames"] for part in self._index))


def find_prepared(root: Path) -> Path | None:
    """The one prepared set in or under a directory, or None.

    Raises:
        DataError: there are several.
    """
    patterns = [
        "dataset_info.json",
        "[0-9]*/dataset_info.json",
        *(f"{name}/*/[0-9]*/dataset_info.json" for name in SETS),
    ]
    found = sorted(path.parent for pattern in patterns for path in root.glob(pattern))
    if len(found) > 1:
        listed = ", ".join(str(path) for path in found)
        raise DataError(f"data.root='{root}' holds several prepared sets: name one of {listed}")
    return found[0] if found else None


def read_metadata(directory: Path) -> dict[str, Any]:
    """What `prepare.py` noted of a set: `splits` (filenames, captions), `pictures` (their crop or None) and `source`.

    Raises:
        DataError: it was not written by it.
    """
    try:
        metadata = json.loads((directory / "metadata.json").read_bytes())
        metadata["splits"], metadata["pictures"], metadata["source"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{directory}: no set that scripts/prepare_coco.py wrote whole ({error})") from None
    return metadata


def open_prepared(directory: Path, config: DataConfig, split: str, faults: Faults) -> RecordsSource:
    """One split of a prepared set.

    Raises:
        DataError: no such split, or pictures that were cropped otherwise than the configuration asks for.
    """
    metadata = read_metadata(directory)
    parts = [part for part in PARTS.get(split, ()) if part in metadata["splits"]]
    if not parts:
        raise DataError(f"{directory} has no split '{split}'; it has {', '.join(metadata['splits'])}")
    if stored := metadata["pictures"]:
        wanted = {
            "image_size": config.image_size,
            "resize": config.resized_side,
            "interpolation": config.interpolation or "bilinear",
        }
        for name, value in wanted.items():
            if stored[name] != value:
                raise DataError(
                    f"{directory}: its pictures were prepared with {name} {stored[name]}, but data.{name} is {value}; "
                    f"set --data.{name.replace('_', '-')} {stored[name]}, or prepare the set anew"
                )
    return RecordsSource(directory, parts, faults)
