"""Writing a prepared set, whole or not at all."""

import contextlib
import errno
import io
import os
import shutil
from pathlib import Path

import tensorflow_datasets as tfds
from filelock import FileLock, Timeout
from tqdm import tqdm

from dualcap_jax.data.prepared.builder import CaptionsBuilder
from dualcap_jax.data.prepared.reader import index_row, read_examples, read_metadata
from dualcap_jax.data.records import DataError


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
