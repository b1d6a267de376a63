"""Preparing a set once: its pictures and captions as records of tensorflow-datasets, in array_record files.

Neither preparing nor reading needs TensorFlow. `prepared.py` reads what is written here.
"""

import contextlib
import errno
import io
import os
import shutil
import zlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from zipfile import BadZipFile

import numpy as np
import tensorflow_datasets as tfds
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.folders import SPLITS, Entry
from dualcap_jax.data.images import ImageError, Interpolation, crop_image, decode_image
from dualcap_jax.data.prepared import RecordsSource, read_metadata
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources import read_entries
from dualcap_jax.errors import require
from dualcap_jax.files import replacing

SHARD = 1000
"""Pictures in a file: as many are in memory at once."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Pictures:
    """How pictures are stored: resized and cropped as the model reads them, as JPEG."""

    image_size: int
    """Side of the square, in pixels."""
    resize: int
    """Length of the shorter side before the centre crop, in pixels."""
    interpolation: Interpolation = "bilinear"
    quality: int = 95
    """Of the JPEG, 1 to 100."""

    def __post_init__(self) -> None:
        """Check each field."""
        require(self.image_size >= 1, "image_size", self.image_size, "must be at least 1")
        require(self.resize >= self.image_size, "resize", self.resize, "must be at least the image size")
        require(1 <= self.quality <= 100, "quality", self.quality, "must be 1 to 100")

    @property
    def name(self) -> str:
        """Tells differently stored sets of the same pictures apart."""
        parts = [str(self.image_size)]
        if self.resize != self.image_size:
            parts.append(f"of_{self.resize}")
        if self.interpolation != "bilinear":
            parts.append(self.interpolation)
        if self.quality != 95:
            parts.append(f"q{self.quality}")
        return "_".join(parts)


@dataclass(eq=False)
class CaptionsConfig(tfds.core.BuilderConfig):
    """A set to prepare. `name` is that of its directory."""

    pictures: Pictures | None = None
    """None: the files as they are."""
    on_error: Literal["raise", "skip"] = "raise"
    """As `DataConfig.on_error`."""
    threads: int = 2
    """That read, decode and encode pictures."""


class CaptionsBuilder(tfds.core.ShardBasedBuilder):
    """Records of pictures with their captions; what is in which split is a subclass's.

    Shard by shard, since tfds's GeneratorBasedBuilder needs TensorFlow to sort more than a gigabyte.
    """

    VERSION = tfds.core.Version("1.0.0")
    builder_config: CaptionsConfig
    faults: Faults
    staging: Path | None = None
    """Where resized pictures are kept until the set is whole, for a preparation that is stopped to go on from."""

    @abstractmethod
    def entries(self, source: Path) -> Mapping[str, list[Entry]]:
        """The images of each split of what lies in the directory `source`, in order.

        Faults are reported to `self.faults`.

        Raises:
            DataError: when something needed is missing.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        pictures = self.builder_config.pictures
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
            description="Pictures and their captions; height and width are those of the picture before any crop.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(splits={}, pictures=pictures and vars(pictures)),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator]]]:
        self.faults = Faults(self.builder_config.on_error)
        source = Path(dl_manager.manual_dir)
        self.info.metadata["source"] = str(source.absolute())
        return {split: self._shards(split, entries) for split, entries in self.entries(source).items()}

    def _shards(self, split: str, entries: list[Entry]) -> list[Callable[[], Iterator]]:
        self.info.metadata["splits"][split] = {"filenames": [], "captions": []}
        progress = tqdm(desc=split, total=len(entries), unit=" pictures", disable=None)
        starts = range(0, len(entries), SHARD)
        last = entries[-1]
        return [partial(self._examples, split, entries[start : start + SHARD], last, progress) for start in starts]

    def _examples(
        self, split: str, entries: list[Entry], last: Entry, progress: tqdm
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        index = self.info.metadata["splits"][split]
        pictures = map_ahead(self._picture, entries, self.builder_config.threads)
        for entry, picture in zip(entries, pictures, strict=True):
            progress.update()
            if isinstance(picture, str):
                self.faults.report("unreadable image", picture)
                continue
            data, (width, height) = picture
            index["filenames"].append(entry.filename)
            index["captions"].append(len(entry.captions))
            captions = [
                {"id": number, "text": text} for number, text in zip(entry.caption_ids, entry.captions, strict=True)
            ]
            example = {"image": io.BytesIO(data), "filename": entry.filename, "image_id": entry.image_id}
            yield entry.image_id, example | {"height": height, "width": width, "captions": captions}
        if entries[-1] is last:
            progress.close()
            if not index["captions"]:
                raise DataError(f"{split}: not one image can be used: {self.faults.summary()}")

    def _picture(self, entry: Entry) -> tuple[bytes, tuple[int, int]] | str:
        """What to store of a picture, and its width and height; or what is wrong with it."""
        try:
            data = entry.path.read_bytes()
            image = decode_image(data)
        except ImageError as error:
            return f"image '{entry.filename}': {error}"
        except (OSError, BadZipFile) as error:
            return f"image '{entry.filename}': can't be read ({error})"
        if entry.size is not None and entry.size not in (image.size, image.size[::-1]):  # turned by its EXIF or not
            sides, listed = (f"{width} x {height}" for width, height in (image.size, entry.size))
            return f"image '{entry.filename}': is {sides} pixels, its annotation says {listed}"
        pictures = self.builder_config.pictures
        if pictures is None:
            return data, image.size
        kept = self.staging and self.staging / f"{entry.image_id}-{zlib.crc32(data):08x}.jpg"
        if kept and kept.is_file():
            return kept.read_bytes(), image.size
        encoded = io.BytesIO()
        cropped = crop_image(image, pictures.image_size, pictures.resize, pictures.interpolation)
        Image.fromarray(cropped).save(encoded, "JPEG", quality=pictures.quality)
        if kept:
            with replacing(kept) as partial:
                partial.write_bytes(encoded.getvalue())
        return encoded.getvalue(), image.size


@dataclass(eq=False)
class FolderConfig(CaptionsConfig):
    """Any set that `open_source` reads."""

    data: DataConfig = field(default_factory=DataConfig)
    """How its images are divided, where it names no splits."""


class FolderCaptions(CaptionsBuilder):
    """Any set that `open_source` reads, prepared."""

    name = "folder_captions"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A COCO layout, or a folder with captions.jsonl or captions.csv."
    builder_config: FolderConfig

    def entries(self, source: Path) -> dict[str, list[Entry]]:
        """The splits that are there."""
        data = replace(self.builder_config.data, root=str(source))
        splits = {split: read_entries(data, split, self.faults)[0] for split in SPLITS}
        splits = {split: entries for split, entries in splits.items() if entries}
        if not splits:
            raise DataError(f"'{source}' has no usable record: {self.faults.summary()}")
        return splits


def map_ahead(function: Callable[[T], U], items: Iterable[T], threads: int) -> Iterator[U]:
    """`map` by threads, in order, never far ahead of what is asked for."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def prepare(builder: CaptionsBuilder, source: Path) -> Path:
    """Write a set, unless it is there already, and read it back.

    It is written aside and then renamed, so that no reader takes a part for the whole. Resized pictures of a
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
            f"again (pictures already resized are kept in {builder.staging})"
        ) from None


def _read_back(directory: Path) -> None:
    """Compare every record with the index.

    Raises:
        DataError: when they disagree.
    """
    for part, index in read_metadata(directory)["splits"].items():
        source = RecordsSource(directory, [part], Faults())
        expected = zip(index["filenames"], index["captions"], strict=True)
        for position, (filename, captions) in enumerate(tqdm(expected, f"{part} read back", len(source), disable=None)):
            record = source[position]
            if (record.filename, len(record.captions)) != (filename, captions):
                raise DataError(
                    f"{directory}: record {position} of {part} is not '{filename}'; delete it, prepare anew"
                )
