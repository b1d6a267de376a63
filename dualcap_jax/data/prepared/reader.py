"""Reading sets that scripts/prepare_coco.py wrote: records of tensorflow-datasets in array_record files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError, Faults, Record
from dualcap_jax.data.transform import ImageTransform

PARTS = {"train": ("train", "restval"), "validation": ("validation", "val"), "test": ("test",)}
"""Our splits, and what they are made of where it is there: Karpathy's restval is trained on too."""
SETS = ("coco_captions_2017", "folder_captions")
"""Names of the builders."""
PUBLISHED = {
    "2017": {"train": 118_287, "validation": 5_000},
    "karpathy": {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000},
}
"""Images of each split of each division of COCO."""


class PreparedSource:
    """Records of one split of a prepared set. See `Source`.

    All but the images is in the set's index. That of a set prepared by the first version lacks ids, captions and sizes:
    these are then read with their record when asked for, and the image in it is let go.
    """

    def __init__(
        self, directory: Path, indices: Mapping[str, dict[str, list]], transform: ImageTransform, faults: Faults
    ):
        """`directory`: of one version of the set. `indices`: of its splits that are read, one after the other."""
        self.transform, self.faults = transform, faults
        names = next(iter(indices.values()))
        self._index = {name: list(chain.from_iterable(index[name] for index in indices.values())) for name in names}
        self._examples = [read_examples(directory, part, len(index["captions"])) for part, index in indices.items()]
        self._ends = list(accumulate(map(len, self._examples)))

    def __len__(self) -> int:
        """Number of images."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        """The record at a position."""
        row = {name: values[index] for name, values in self._index.items()}
        if "texts" not in row:
            row = index_row(self._example(index))
        texts, size = tuple(row["texts"]), tuple(row["sizes"])
        return Record(row["image_ids"], row["filenames"], texts, partial(self._image, index), size)

    @cached_property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record."""
        return np.array(self._index["captions"])

    @property
    def filenames(self) -> list[str]:
        """Name of each record's image."""
        return self._index["filenames"]

    def _image(self, index: int) -> bytes:
        return self._example(index)["image"]

    def _example(self, index: int) -> dict[str, Any]:
        part = next(part for part, end in enumerate(self._ends) if index < end)
        return self._examples[part][index - (self._ends[part - 1] if part else 0)]


def read_examples(directory: Path, part: str, length: int) -> Sequence[dict[str, Any]]:
    """What one split of a set stores, as tensorflow-datasets gives it, images encoded; each is read when asked for.

    Raises:
        DataError: it is not of this length.
    """
    import tensorflow_datasets as tfds  # most of a second, which other sets need not wait for

    builder = tfds.builder_from_directory(str(directory))
    examples = builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()})
    if len(examples) != length:
        raise DataError(f"{directory}: {part} holds {len(examples)} records, not {length}")
    return examples


def index_row(example: Mapping[str, Any]) -> dict[str, Any]:
    """What a set's index lists of one of its examples, by the name of the list."""
    texts = [text.decode() for text in example["captions"]["text"]]
    return {
        "filenames": example["filename"].decode(),
        "captions": len(texts),
        "image_ids": int(example["image_id"]),
        "texts": texts,
        "sizes": [int(example["width"]), int(example["height"])],
    }


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
    """What preparing noted of a set.

    Returns:
        `splits`: of each split the lists `filenames`, `captions` (how many), `image_ids`, `texts` and `sizes`, the last
        three of which sets of the first version lack. `pictures`: what was done to the images, or None. `source`.

    Raises:
        DataError: it was not written by it.
    """
    try:
        metadata = json.loads((directory / "metadata.json").read_bytes())
        metadata["splits"], metadata["pictures"], metadata["source"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{directory}: no set that scripts/prepare_coco.py wrote whole ({error})") from None
    return metadata


def stored_transform(metadata: dict[str, Any]) -> ImageTransform | None:
    """What a prepared set's images have gone through; None: they are as they were published."""
    stored = metadata["pictures"]
    return stored and ImageTransform(stored["image_size"], stored["resize"], stored["interpolation"])


def open_prepared(directory: Path, config: DataConfig, split: str, faults: Faults) -> PreparedSource:
    """One split of a prepared set.

    Raises:
        DataError: no such split, or images that were cropped otherwise than the configuration asks for.
    """
    metadata = read_metadata(directory)
    parts = [part for part in PARTS.get(split, ()) if part in metadata["splits"]]
    if not parts:
        raise DataError(f"{directory} has no split '{split}'; it has {', '.join(metadata['splits'])}")
    transform = config.transform
    if stored := stored_transform(metadata):
        for name, field in (("image_size", "size"), ("resize", "resize"), ("interpolation", "interpolation")):
            there, wanted = getattr(stored, field), getattr(transform, field)
            if there != wanted:
                raise DataError(
                    f"{directory}: its images were prepared with {name} {there}, but data.{name} is {wanted}; "
                    f"set --data.{name.replace('_', '-')} {there}, or prepare the set anew"
                )
        transform = replace(transform, resize=transform.size)  # they are squares already
    return PreparedSource(directory, {part: metadata["splits"][part] for part in parts}, transform, faults)
