"""Preparing a set once: its images and captions as records of tensorflow-datasets, in array_record files.

Neither preparing nor reading needs TensorFlow. `reader.py` reads what is written here.
"""

import contextlib
import errno
import io
import os
import shutil
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.images import ImageError, decode_image, full_size
from dualcap_jax.data.prepared.reader import index_row, read_examples, read_metadata
from dualcap_jax.data.reading import ReadingConfig, map_ahead
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources import read_entries
from dualcap_jax.data.sources.entries import SPLITS, Entry
from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.errors import require
from dualcap_jax.files import replacing

SHARD = 1000
"""Images in a file: as many are in memory at once."""


@dataclass(frozen=True)
class Squares:
    """Images are stored as the model reads them, as JPEG."""

    transform: ImageTransform
    """What they go through."""
    quality: int = 95
    """Of the JPEG, 1 to 100."""

    def __post_init__(self) -> None:
        """Check each field."""
        require(1 <= self.quality <= 100, "quality", self.quality, "must be 1 to 100")

    @property
    def name(self) -> str:
        """Tells differently stored sets of the same images apart."""
        parts = [str(self.transform.size)]
        if self.transform.resize != self.transform.size:
            parts.append(f"of_{self.transform.resize}")
        if self.transform.interpolation != "bilinear":
            parts.append(self.transform.interpolation)
        if self.quality != 95:
            parts.append(f"q{self.quality}")
        return "_".join(parts)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a set's metadata tells of them."""
        size, resize, interpolation = self.transform.size, self.transform.resize, self.transform.interpolation
        return {"image_size": size, "resize": resize, "interpolation": interpolation, "quality": self.quality}


@dataclass(eq=False)
class CaptionsConfig(tfds.core.BuilderConfig):
    """A set to prepare. `name` is that of its directory."""

    squares: Squares | None = None
    """None: the files as they are."""
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    """Which images are read, and what is done about what is broken."""
    threads: int = 2
    """That read, decode and encode images."""


class CaptionsBuilder(tfds.core.ShardBasedBuilder):
    """Records of images with their captions; what is in which split is a subclass's.

    Shard by shard, since tfds's GeneratorBasedBuilder needs TensorFlow to sort more than a gigabyte.
    """

    VERSION = tfds.core.Version("1.0.0")
    builder_config: CaptionsConfig
    faults: Faults
    staging: Path | None = None
    """Where resized images are kept until the set is whole, for a preparation that is stopped to go on from."""

    @abstractmethod
    def entries(self, source: Path) -> Mapping[str, list[Entry]]:
        """The images of each split of what lies in the directory `source`, in order.

        Faults are reported to `self.faults`.

        Raises:
            DataError: when something needed is missing.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        squares = self.builder_config.squares
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "filename": tfds.features.Text(),
            "image_id": np.int64,
            "height": np.int32,
            "width": np.int32,
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images and their captions; height and width are those of the image before any crop.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(splits={}, pictures=squares and squares.metadata),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator]]]:
        self.faults = Faults(self.builder_config.reading.on_error)
        source = Path(dl_manager.manual_dir)
        self.info.metadata["source"] = str(source.absolute())
        return {split: self._shards(split, entries) for split, entries in self.entries(source).items()}

    def _shards(self, split: str, entries: list[Entry]) -> list[Callable[[], Iterator]]:
        self.info.metadata["splits"][split] = {}
        progress = tqdm(desc=split, total=len(entries), unit=" images", disable=None)
        starts = range(0, len(entries), SHARD)
        last = entries[-1]
        return [partial(self._examples, split, entries[start : start + SHARD], last, progress) for start in starts]

    def _examples(
        self, split: str, entries: list[Entry], last: Entry, progress: tqdm
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        index = self.info.metadata["splits"][split]
        for entry, stored in zip(entries, map_ahead(self._stored, entries, self.builder_config.threads), strict=True):
            progress.update()
            if isinstance(stored, str):
                self.faults.report("unreadable image", stored)
                continue
            data, (width, height) = stored
            example = {
                "image": data,
                "filename": entry.filename.encode("utf-8", "backslashreplace"),
                "image_id": entry.image_id,
                "height": height,
                "width": width,
                "captions": {"id": entry.caption_ids, "text": [text.encode() for text in entry.captions]},
            }
            for name, value in index_row(example).items():
                index.setdefault(name, []).append(value)
            yield entry.image_id, example
        if entries[-1] is last:
            progress.close()
            if not index:
                raise DataError(f"{split}: not one image can be used: {self.faults.summary()}")

    def _stored(self, entry: Entry) -> tuple[bytes, tuple[int, int]] | str:
        """What to store of an image, and its width and height; or what is wrong with it."""
        try:
            data = entry.path.read_bytes()
            image = decode_image(data, self.builder_config.reading, entry.filename)
        except ImageError as error:
            return f"image '{entry.filename}': {error}"
        except OSError as error:
            return f"image '{entry.filename}': can't be read ({error.strerror or error})"
        size = full_size(image)
        if entry.size is not None and entry.size not in (size, size[::-1]):  # turned by its EXIF or not
            sides, listed = (f"{width} x {height}" for width, height in (size, entry.size))
            return f"image '{entry.filename}': is {sides} pixels, its annotation says {listed}"
        squares = self.builder_config.squares
        if squares is None:
            return data, size
        kept = self.staging and self.staging / f"{entry.image_id}-{zlib.crc32(data):08x}.jpg"
        if kept and kept.is_file():
            return kept.read_bytes(), size
        encoded = io.BytesIO()
        Image.fromarray(squares.transform(image)).save(encoded, "JPEG", quality=squares.quality)
        if kept:
            with replacing(kept) as aside:
                aside.write_bytes(encoded.getvalue())
        return encoded.getvalue(), size


@dataclass(eq=False)
class FolderConfig(CaptionsConfig):
    """Any set that `open_source` reads."""

    data: DataConfig = field(default_factory=DataConfig)
    """How its images are divided, where it names no splits."""


class FolderCaptions(CaptionsBuilder):
    """Any set that `open_source` reads, prepared."""

    name = "folder_captions"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Any layout of docs/data.md."
    builder_config: FolderConfig

    def entries(self, source: Path) -> dict[str, list[Entry]]:
        """The splits that are there."""
        data = replace(self.builder_config.data, root=str(source))
        splits = {split: read_entries(data, split, self.faults)[0] for split in SPLITS}
        splits = {split: entries for split, entries in splits.items() if entries}
        if not splits:
            raise DataError(f"'{source}' has no usable record: {self.faults.summary()}")
        return splits


def prepare(builder: CaptionsBuilder, source: Path) -> Path:
    """Write a set, unless it is there already, and read it back.

    It is written aside and then renamed, so that no reader takes a part for the whole. Resized images of a
    preparation that was stopped are used again.

    Args:
        builder: made with `file_format="array_record"` and a `data_dir`.
        source: directory of what is to be prepared.

    Returns:
        The set's directory.

    Raises:
        DataError: for faults in the source, a set of another source or another preparation at the same place, or a
            full disk.
    """
    directory = Path(builder.data_dir)
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory.parent / ".lock", timeout=0):
            if directory.exists():
                if (there := read_metadata(directory)["source"]) != str(source.absolute()):
                    raise DataError(f"{directory}: was prepared from {there}; delete it, or write to another directory")
                print(f"{directory}: is there already; delete it to prepare it anew")
            else:
                for left in directory.parent.glob("incomplete.*"):
                    shutil.rmtree(left)
                builder.staging = directory.parent / "resized"
                _write(builder, source)
                shutil.rmtree(builder.staging)
            _read_back(directory)
    except Timeout:
        raise DataError(f"{directory.parent}: another preparation is at work there; wait for it to end") from None
    return directory


def _write(builder: CaptionsBuilder, source: Path) -> None:
    assert builder.staging is not None
    builder.staging.mkdir(exist_ok=True)
    tfds.disable_progress_bar()  # we have our own
    settings = tfds.download.DownloadConfig(manual_dir=source)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tfds speaks of downloads
            builder.download_and_prepare(download_dir=builder.staging, download_config=settings)
    except (OSError, RuntimeError) as error:
        if os.strerror(errno.ENOSPC) not in str(error):  # array_record's writer has no errno
            raise
        raise DataError(
            f"{builder.staging.parent}: the disk is full. Nothing half-written counts as a set; make room and start "
            f"again (images already resized are kept in {builder.staging})"
        ) from None


def _read_back(directory: Path) -> None:
    """Compare every record with the index.

    Raises:
        DataError: when they disagree.
    """
    for part, index in read_metadata(directory)["splits"].items():
        examples = read_examples(directory, part, len(index["filenames"]))
        for position in tqdm(range(len(examples)), f"{part} read back", disable=None):
            row = index_row(examples[position])
            if any(row[name] != values[position] for name, values in index.items()):
                filename = index["filenames"][position]
                raise DataError(
                    f"{directory}: record {position} of {part} is not '{filename}'; delete it, prepare anew"
                )
