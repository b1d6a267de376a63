"""The files that a set names: whether they can be read, which are one and the same, and what looks alike."""

import os
import stat
import unicodedata
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path, PurePath
from zipfile import Path as ZipPath


def look_up(directory: Path | ZipPath, name: str) -> tuple[Hashable, str]:
    """Look for a file without opening it.

    Args:
        directory: that the name is relative to.
        name: with "/" between folders.

    Returns:
        What is equal for two names of one file, through links too; and what keeps it from being read, in words that
        follow its name, empty where nothing does.
    """
    path = directory / name
    if isinstance(path, ZipPath) or isinstance(directory, ZipPath):
        return str(path), "" if path.is_file() else f"does not exist (looked under {directory})"
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return name, f"does not exist (looked under {directory}{_alike(directory, name)})"
    except (OSError, ValueError) as error:  # too long, no permission, a loop of links; not to be encoded
        return name, f"can't be read ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISREG(status.st_mode):
        return name, f"is {irregular(status.st_mode)}"
    return (status.st_dev, status.st_ino) if status.st_ino else str(path), ""


def irregular(mode: int) -> str:
    """What a thing that is no regular file is."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe, not a file", stat.S_IFSOCK: "a socket, not a file"}
    return kinds.get(stat.S_IFMT(mode), "a device, not a file")


def _alike(directory: Path, name: str) -> str:
    """What is there in the place of a missing file that looks alike, and how it differs; or nothing."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    there = _walk(directory, parts) or _walk(directory, parts[-1:])
    if there is None:
        return ""
    if unicodedata.normalize("NFC", there) == unicodedata.normalize("NFC", name):
        how = "of the same letters, composed otherwise (Unicode's NFC and NFD)"
    elif there == name.replace("\\", "/"):
        how = 'with "/" between folders'
    elif there.casefold() == name.casefold():
        how = "of other upper and lower case"
    else:
        how = "which looks alike"
    return f"; there is '{there}', {how}: write the file's own name"


def _walk(directory: Path, parts: list[str]) -> str | None:
    """The path below a directory whose folders and file look like these."""
    found: list[str] = []
    for part in parts:
        names = _names(str(directory.joinpath(*found)))
        name = names.get(_fold(part)) or (names.get(_fold(PurePath(part).stem)) if part is parts[-1] else None)
        if name is None:
            return None
        found.append(name)
    return "/".join(found) if found and directory.joinpath(*found).is_file() else None


@lru_cache(maxsize=64)
def _names(directory: str) -> dict[str, str]:
    """The names in a directory, by what they look like, with and without their endings."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return {}
    return {_fold(PurePath(name).stem): name for name in names} | {_fold(name): name for name in names}


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()
