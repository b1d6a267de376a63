"""COCO 2017's captions as a tensorflow-datasets builder, from the files that cocodataset.org gives out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from dualcap_jax.data.archives import ArchiveFolder, File, Place, file_in
from dualcap_jax.data.prepared.reader import PUBLISHED
from dualcap_jax.data.prepared.writer import CaptionsBuilder, CaptionsConfig
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.coco import read_coco
from dualcap_jax.data.sources.entries import Entry, with_captions
from dualcap_jax.data.text import normalize_caption

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
            return read_karpathy(find_file(source, "dataset_coco.json", "caption_datasets.zip"), images, self.faults)
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


def read_karpathy(path: File, images: dict[str, Place], faults: Faults) -> dict[str, list[Entry]]:
    """Karpathy's division, over the images of COCO 2017.

    Raises:
        DataError: no such JSON, or an image in two splits; other faults as `faults` has it.
    """
    splits: dict[str, list[Entry]] = {split: [] for split in PUBLISHED["karpathy"]}
    seen: set[int] = set()
    try:
        for image in json.loads(path.read_bytes())["images"]:
            image_id, split = int(image["cocoid"]), image["split"]
            if image_id in seen:
                raise DataError(f"{path}: image {image_id} is listed twice")
            seen.add(image_id)
            filename = f"{image_id:012d}.jpg"
            there = [file for place in images.values() if (file := file_in(place, filename))]
            if not there:
                faults.report("missing image", f"{path}: image '{filename}' is neither in {' nor in '.join(images)}")
                continue
            entry = Entry(image_id, filename, there[0])
            for sentence in image["sentences"]:
                if text := normalize_caption(sentence["raw"]):
                    entry.captions.append(text)
                    entry.caption_ids.append(int(sentence["sentid"]))
            splits[split].append(entry)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not Karpathy's dataset_coco.json ({type(error).__name__}: {error})") from None
    usable = {split: with_captions(entries, str(path), faults) for split, entries in splits.items()}
    return {split: entries for split, entries in usable.items() if entries}
