"""COCO 2017's captions as a tensorflow-datasets builder, from the files that cocodataset.org gives out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from dualcap_jax.data.archives import ArchiveFolder, File, Place, file_in
from dualcap_jax.data.prepared.writer import CaptionsBuilder, CaptionsConfig
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources.coco import read_coco
from dualcap_jax.data.sources.entries import Entry, is_id
from dualcap_jax.data.sources.karpathy import read_karpathy

ADDRESSES = {
    "annotations_trainval2017.zip": "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    "train2017.zip": "http://images.cocodataset.org/zips/train2017.zip",
    "val2017.zip": "http://images.cocodataset.org/zips/val2017.zip",
    "caption_datasets.zip": "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
}


@dataclass(eq=False)
class CocoConfig(CaptionsConfig):
    """Which division of the images."""

    division: Literal["2017", "karpathy"] = "2017"
    """2017: train and validation, as published; karpathy: train, restval, val and test of dataset_coco.json."""


class CocoCaptions2017(CaptionsBuilder):
    """COCO 2017 with its captions, in its own division or in Karpathy's.

    A run reads one of the two. Karpathy's is a division, so none of its images is in two of its splits; train of 2017
    holds most of Karpathy's test images.
    """

    name = "coco_captions_2017"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Download {', '.join(ADDRESSES.values())} (the last for Karpathy's division only)."
    BUILDER_CONFIGS: ClassVar = [CocoConfig(name="2017"), CocoConfig(name="karpathy", division="karpathy")]
    builder_config: CocoConfig

    def entries(self, source: Path) -> dict[str, list[Entry]]:
        """Images and captions out of the directory that the downloads lie in, zipped or not."""
        images = {name: find_folder(source, name, f"{name}.zip") for name in ("train2017", "val2017")}
        if self.builder_config.division == "karpathy":
            file = find_file(source, "dataset_coco.json", "caption_datasets.zip")
            return read_karpathy(file, partial(_candidates, list(images.values())), self.faults)
        splits = zip(("train", "validation"), images.items(), strict=True)
        archive = "annotations_trainval2017.zip"
        return {
            split: read_coco(find_file(source, f"annotations/captions_{name}.json", archive), [place], self.faults)
            for split, (name, place) in splits
        }


def find_folder(source: Path, name: str, archive: str) -> Place:
    """A directory, or the same in its archive.

    Raises:
        DataError: there is neither, or the archive is broken.
    """
    if (source / name).exists():
        return source / name
    found = ArchiveFolder(_archive(source, name, archive), name)
    if not found.listing(""):
        raise DataError(f"{found.archive}: holds no {name}; download it from {ADDRESSES[archive]}")
    return found


def find_file(source: Path, name: str, archive: str) -> File:
    """A file, or the same in its archive.

    Raises:
        DataError: there is neither, or the archive is broken.
    """
    if (source / name).exists():
        return source / name
    path = _archive(source, name, archive)
    if (found := file_in(ArchiveFolder(path), name)) is None:
        raise DataError(f"{path}: holds no {name}; download it from {ADDRESSES[archive]}")
    return found


def _archive(source: Path, name: str, archive: str) -> Path:
    if not (source / archive).is_file():
        raise DataError(f"{source}: holds neither {name} nor {archive}, which is to be had from {ADDRESSES[archive]}")
    return source / archive


def _candidates(places: list[Place], row: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Where the image of COCO 2017 may lie that Karpathy's file describes so."""
    number = row.get("cocoid")
    return [(place, f"{number:012d}.jpg") for place in places] if is_id(number) else []
