"""The files that a set names: whether they can be read, which are one and the same, and what looks alike."""

import os
import posixpath
import stat
import unicodedata
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import PurePath
from typing import NamedTuple

from dualcap_jax.data.archives import ArchiveFolder, File, Place


@dataclass(frozen=True)
class Found:
    """What a name was found to be."""

    name: str
    """The file's own, with "/" between folders; as it was sought where there is no such file."""
    file: File | None
    """None where it can't be read."""
    identity: Hashable
    """Equal for two names of one file, through links too."""
    trouble: str = ""
    """What keeps it from being read, in words that follow its name."""


def look_up(candidates: Iterable[tuple[Place, str]]) -> Found:
    """Look for a file without opening it.

    A file whose name differs only in upper and lower case, in how Unicode composes its letters, or by "\\" for "/" is
    taken, if it is the only one.

    Args:
        candidates: where it may lie, with its name there, in order of preference; at least one.
    """
    tried, refused, hints = list(candidates), None, []
    for place, name in tried:
        if (found := _look(place, name)) is not None and found.file is not None:
            return found
        refused = refused or found
    if refused is not None:
        return refused
    for place, name in tried:
        alike = _alike(place, name)
        if len(alike) == 1 and (found := _look(place, alike[0])) is not None:
            return found
        if alike:
            there = " and ".join(f"'{each}'" for each in alike)
            hints.append(f"; there are {there}, which look alike: write the file's own name")
        elif hint := _hint(place, name):
            hints.append(f"; there is '{hint}', which looks alike: write the file's own name")
    looked = ", ".join(dict.fromkeys(str(place) for place, _ in tried))
    name = tried[0][1]
    return Found(name, None, name, f"does not exist (looked under {looked}{hints[0] if hints else ''})")


def fold(name: str) -> str:
    """What is equal for names that read the same, but for case, composition and slashes."""
    return "/".join(map(_fold, _parts(name)))


def irregular(mode: int) -> str:
    """What a thing that is no regular file is."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe, not a file", stat.S_IFSOCK: "a socket, not a file"}
    return kinds.get(stat.S_IFMT(mode), "a device, not a file")


def _look(place: Place, name: str) -> Found | None:
    """What is there of exactly this name."""
    if isinstance(place, ArchiveFolder):
        member = place.get(name)
        return Found(name, member, member) if member else None
    path = place / name
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # too long, no permission, a loop of links; not to be encoded
        return Found(name, None, name, f"can't be read ({getattr(error, 'strerror', None) or error})")
    if not stat.S_ISREG(status.st_mode):
        return Found(name, None, name, f"is {irregular(status.st_mode)}")
    return Found(name, path, (status.st_dev, status.st_ino) if status.st_ino else str(path))


def _is_file(place: Place, name: str) -> bool:
    found = _look(place, name)
    return found is not None and found.file is not None


def _alike(place: Place, name: str) -> list[str]:
    """The files below a place whose folders and names read the same, but for case, composition and slashes."""
    found = [""]
    for part in _parts(name):
        found = [
            posixpath.join(folder, each)
            for folder in found
            for each in _names(place, folder).whole.get(_fold(part), [])
        ]
    return [each for each in found if each and _is_file(place, each)]


def _hint(place: Place, name: str) -> str:
    """A file that may be meant by a name that there is not: of another ending, or not in that folder; or nothing."""
    parts = _parts(name)
    for folder in dict.fromkeys(("/".join(parts[:-1]), "")) if parts else ():
        names, last = _names(place, folder), parts[-1]
        stems = (_fold(last), _fold(PurePath(last).stem))
        for each in chain(names.whole.get(stems[0], []), *(names.stems.get(stem, []) for stem in stems)):
            if _is_file(place, path := posixpath.join(folder, each)):
                return path
    return ""


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


class _Names(NamedTuple):
    """The names in a folder, by how they read, with and without their endings."""

    whole: dict[str, list[str]]
    stems: dict[str, list[str]]


def _names(place: Place, folder: str) -> _Names:
    try:
        written = 0 if isinstance(place, ArchiveFolder) else (place / folder).stat().st_mtime_ns
        return _listed(place, folder, written)
    except (OSError, ValueError):
        return _Names({}, {})


@lru_cache(maxsize=64)
def _listed(place: Place, folder: str, written: int) -> _Names:
    """`written`: when the folder was, so that no names of before are taken."""
    names = _Names({}, {})
    for name in sorted(place.listing(folder) if isinstance(place, ArchiveFolder) else os.listdir(place / folder)):
        names.whole.setdefault(_fold(name), []).append(name)
        names.stems.setdefault(_fold(PurePath(name).stem), []).append(name)
    return names


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
