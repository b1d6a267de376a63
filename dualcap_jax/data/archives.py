"""Files in zips and tars, read where they lie: an archive's index is read once, each file by its place in it."""

import os
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

from dualcap_jax.data.records import DataError

ZIP_HEADER = struct.Struct("<4s22x2H")
"""What precedes a file in a zip: its mark, and the lengths of the two fields that come between."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive. It holds no open file, so that threads and processes can share it."""

    archive: Path
    inner: str
    """Its path in the archive."""
    offset: int
    """Of its header in a zip, of its bytes in a tar."""
    size: int
    """Bytes that it takes in the archive."""
    method: int | None = field(default=None, compare=False)
    """How a zip has compressed it; None in a tar."""
    checksum: int = field(default=0, compare=False)
    """A zip's."""

    @property
    def name(self) -> str:
        """Without its folders."""
        return posixpath.basename(self.inner)

    def __str__(self) -> str:
        """The archive with the path in it."""
        return f"{self.archive}/{self.inner}"

    def read_bytes(self) -> bytes:
        """Its content.

        Raises:
            OSError: the archive can't be read, has changed, or is damaged.
        """
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            if self.method is not None:
                header = file.read(ZIP_HEADER.size)
                if len(header) < ZIP_HEADER.size or not header.startswith(b"PK\3\4"):
                    raise self._damaged("it has changed or is damaged")
                file.seek(sum(ZIP_HEADER.unpack(header)[1:]), os.SEEK_CUR)
            data = file.read(self.size)
        if len(data) < self.size:
            raise self._damaged("it lacks its end")
        if self.method is None:
            return data
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._damaged(f"it is packed by method {self.method}; pack it anew by deflate")
        try:
            data = zlib.decompress(data, -zlib.MAX_WBITS) if self.method == zipfile.ZIP_DEFLATED else data
        except zlib.error as error:
            raise self._damaged(f"it is damaged: {error}") from None
        if zlib.crc32(data) != self.checksum:
            raise self._damaged("it is damaged, or locked by a password: its checksum differs")
        return data

    def _damaged(self, what: str) -> OSError:
        return OSError(None, f"in {self.archive.name}: {what}", self.inner)


@dataclass(frozen=True)
class ArchiveFolder:
    """A folder in an archive."""

    archive: Path
    folder: str = ""
    """Its path in the archive; empty: the whole."""

    def __str__(self) -> str:
        """The archive with the path in it."""
        return f"{self.archive}/{self.folder}".rstrip("/")

    def get(self, name: str) -> Member | None:
        """The file of this name, which may have folders in it."""
        return members(self.archive).get(self._inner(name))

    def listing(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder below."""
        return _listings(*_version(self.archive)).get(self._inner(folder), [])

    def _inner(self, name: str) -> str:
        inner = posixpath.normpath(posixpath.join(self.folder, name))
        return "" if inner == "." else inner


File = Path | Member
Place = Path | ArchiveFolder
"""Where files lie."""


def file_in(place: Place, name: str) -> File | None:
    """The file of exactly this name in a folder, if it is there."""
    if isinstance(place, ArchiveFolder):
        return place.get(name)
    return place / name if (place / name).is_file() else None


def folders_in(archive: Path) -> list[ArchiveFolder]:
    """Where images may lie in an archive: the folder that has the most files, and the whole."""
    counts = Counter(posixpath.dirname(inner) for inner in members(archive))
    fullest = counts.most_common(1)[0][0] if counts else ""
    return [ArchiveFolder(archive, folder) for folder in dict.fromkeys((fullest, ""))]


def members(archive: Path) -> dict[str, Member]:
    """The files in a zip or tar by their paths, in order, without macOS's notes.

    Raises:
        DataError: it is no such archive, or incomplete.
        OSError: it can't be read.
    """
    return _members(*_version(archive))


def _version(archive: Path) -> tuple[Path, int, int]:
    """An archive, and what differs once it is written anew."""
    status = archive.stat()
    return archive, status.st_mtime_ns, status.st_size


@cache
def _members(archive: Path, written: int, size: int) -> dict[str, Member]:
    found = _in_zip(archive) if archive.suffix.lower() == ".zip" else _in_tar(archive)
    kept = (each for each in found if not each.inner.startswith("__MACOSX/") and not each.name.startswith("._"))
    return {each.inner: each for each in kept}


def _inner(name: str) -> str:
    """A path in an archive as we write it; some programs of Windows write it with backslashes."""
    return posixpath.normpath(name.replace("\\", "/"))


def _in_zip(archive: Path) -> list[Member]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return [
                Member(archive, _inner(i.filename), i.header_offset, i.compress_size, i.compress_type, i.CRC)
                for i in opened.infolist()
                if not i.is_dir()
            ]
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: broken or incomplete ({error}); download it again") from None


def _in_tar(archive: Path) -> list[Member]:
    try:
        with tarfile.open(archive, "r:") as opened:
            return [Member(archive, _inner(i.name), i.offset_data, i.size) for i in opened if i.isreg()]
    except tarfile.TarError as error:
        raise DataError(f"{archive}: no tar, compressed, or incomplete ({error}); unpack it or make it anew") from None


@lru_cache(maxsize=8)
def _listings(archive: Path, written: int, size: int) -> dict[str, list[str]]:
    """The names in each folder of an archive."""
    found: dict[str, dict[str, None]] = {}
    for inner in _members(archive, written, size):
        while inner:
            folder, name = posixpath.split(inner)
            found.setdefault(folder, {})[name] = None
            inner = folder
    return {folder: list(names) for folder, names in found.items()}
