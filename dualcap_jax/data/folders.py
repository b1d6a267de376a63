"""The images of a folder: which of its files are taken, and an account of those that are not."""

import os
import stat
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import EpsImagePlugin, Image, ImageFile

from dualcap_jax.data.names import irregular

_NOT_DECODED = {"MPEG", "IPTC"}
"""Formats that PIL knows, but takes no pixels out of, beside its stubs."""


@cache
def suffixes() -> frozenset[str]:
    """The endings of the files that PIL reads, in lower case: ".jpg" and so on."""
    Image.init()
    readable = {
        name
        for name, (factory, _) in Image.OPEN.items()
        if name not in _NOT_DECODED and not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
    }
    readable.add("MPO")  # opened as the JPEG that it begins with
    if not EpsImagePlugin.has_ghostscript():
        readable.discard("EPS")
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


@dataclass
class Found:
    """What lies in a folder."""

    images: list[Path] = field(default_factory=list)
    """By their endings, in order."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """How many other files there are of each kind: an ending, or what they are."""
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Folders that could not be looked into, and why."""

    @property
    def summary(self) -> str:
        """What was passed over, in words; empty where nothing was."""
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.passed_over.most_common())
        return f"passed over {self.passed_over.total()}: {kinds}" if kinds else ""


def find_images(folder: Path) -> Found:
    """The images in a folder and in those below it, linked ones too, each once."""
    found = Found()
    entered = {_identity(folder)}

    def note(error: OSError) -> None:
        found.unreadable.append((Path(error.filename), error.strerror or str(error)))

    for directory, folders, files in os.walk(folder, onerror=note, followlinks=True):
        folders.sort(key=lambda name: (os.path.islink(os.path.join(directory, name)), name))
        for name in list(folders):
            if (identity := _identity(Path(directory, name))) in entered:
                folders.remove(name)
                found.passed_over["folder linked to again"] += 1
            entered.add(identity)
        for name in files:
            if kind := _other(Path(directory, name)):
                found.passed_over[kind] += 1
            else:
                found.images.append(Path(directory, name))
    found.images.sort()
    return found


def _identity(folder: Path) -> Hashable:
    try:
        status = folder.stat()
    except OSError:  # `os.walk` will tell
        return folder
    return status.st_dev, status.st_ino


def _other(path: Path) -> str:
    """What a file is that is not taken, or nothing."""
    if path.name.startswith("._"):
        return "macOS's notes (._*)"
    suffix = path.suffix.lower()
    if suffix not in suffixes():
        return suffix or "no ending"
    try:
        mode = path.stat().st_mode
    except OSError:  # reading it will tell
        return ""
    return "" if stat.S_ISREG(mode) else irregular(mode)


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it can't be read; also for a pipe, which could keep one waiting for ever.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(None, f"is {irregular(mode)}", str(path))
    return path.read_bytes()
