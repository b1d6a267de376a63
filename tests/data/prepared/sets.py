"""Small sets of COCO's kind, and what prepares them."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.prepared.coco_captions_2017 import CocoCaptions2017, CocoConfig
from dualcap_jax.data.prepared.writer import FolderCaptions, FolderConfig

TRAIN, VALIDATION = 12, 5


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((128 - seed, 48), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_coco(root: Path, train: int = TRAIN) -> None:
    """A COCO 2017 layout; ids are far apart and captions come in ones to threes."""
    (root / "annotations").mkdir(parents=True)
    number = 0
    for name, numbers in (("train2017", range(train)), ("val2017", range(train, train + VALIDATION))):
        (root / name).mkdir()
        images, annotations = [], []
        for i in numbers:
            filename = f"{7 * i + 3:012d}.jpg"
            (root / name / filename).write_bytes(jpeg(i))
            images.append({"id": 7 * i + 3, "file_name": filename, "width": 128 - i, "height": 48})
            for j in range(1 + i % 3):
                number += 1
                annotations.append({"id": number, "image_id": 7 * i + 3, "caption": f"Image {i}, caption {j} 🐕.\r\n"})
        content = {"images": images, "annotations": annotations}
        (root / "annotations" / f"captions_{name}.json").write_text(json.dumps(content))


def write_karpathy(root: Path) -> None:
    """Images 0 to 9 as train and restval; 10 and 11 of train2017 are tested on."""
    splits = ["train"] * 8 + ["restval"] * 2 + ["test"] * 2 + ["val"] * 5
    images = [
        {"cocoid": 7 * i + 3, "split": split, "sentences": [{"raw": f"Sentence {i}.", "sentid": i}]}
        for i, split in enumerate(splits)
    ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": images}))


def pack(root: Path) -> None:
    """Everything as cocodataset.org zips it."""
    for name, archive in (
        ("annotations", "annotations_trainval2017"),
        ("train2017", "train2017"),
        ("val2017", "val2017"),
    ):
        with zipfile.ZipFile(root / f"{archive}.zip", "w") as zipped:
            for path in sorted((root / name).iterdir()):
                zipped.write(path, f"{name}/{path.name}")
                path.unlink()
        (root / name).rmdir()


def coco_builder(out: Path, **config) -> CocoCaptions2017:
    config = CocoConfig(**{"name": "trial", **config})
    return CocoCaptions2017(config=config, data_dir=str(out), file_format="array_record")


def folder_builder(out: Path, **config) -> FolderCaptions:
    return FolderCaptions(config=FolderConfig(name="trial", **config), data_dir=str(out), file_format="array_record")


def data_config(root: Path, **settings) -> DataConfig:
    return DataConfig(root=str(root), **{"image_size": 16, "max_length": 12, "read_threads": 0, **settings})


def examples(directory: Path):
    """The training records as tensorflow-datasets itself reads them; it would decode images with TensorFlow."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(str(directory)).as_data_source(split="train", decoders=decoders)


def records(source) -> list:
    return [
        (record.image_id, record.filename, record.captions, record.read_image())
        for record in map(source.__getitem__, range(len(source)))
    ]
