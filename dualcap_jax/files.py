"""Writing a file whole or not at all, even where the process is killed or the disk is full."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
"""Name, or its beginning, of a file in a directory that is held by what writes there."""


def is_empty(path: Path) -> bool:
    """Whether a path is a directory that holds nothing, but perhaps a lock that nobody holds any longer."""
    return path.is_dir() and all(each.name.startswith(LOCK) for each in path.iterdir())


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` when the block ends.

    Folders above it are made. When the block raises, `path` stays as it was and nothing else is left behind.

    Raises:
        OSError: the file can't be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with naming(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike) -> None:
    """Find out, before any work, whether `replacing` can write a path; makes the folders above it.

    Raises:
        OSError: it can't.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.TemporaryFile(dir=path.parent):
        pass


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error that names none, as that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text as UTF-8; a lone surrogate, which UTF-8 cannot hold, is written as its escape."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
