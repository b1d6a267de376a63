"""What every source of data gives: records of one form, and an account of what it had to leave out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.errors import UserError


class DataError(UserError):
    """A fault in the data, told in a sentence that names the file and the place in it."""


@dataclass(frozen=True)
class Record:
    """The index entry of one image: its captions, and where its bytes are read when asked for."""

    image_id: int
    """The image's number in its set, from 0."""
    filename: str
    """The image's name as its set writes it."""
    captions: tuple[str, ...]
    """At least one caption, none of them empty."""
    read_image: Callable[[], bytes]
    """Returns the encoded image (JPEG, PNG, ...); raises OSError when its file can't be read."""
    size: tuple[int, int] | None = None
    """Width and height in pixels before any crop, where the set has noted them."""


class Faults:
    """What is wrong with the data of one source: raised as an error, or skipped and counted, by config."""

    def __init__(self, on_error: Literal["raise", "skip"] = "raise"):
        """`on_error` as `DataConfig.on_error`."""
        self.on_error = on_error
        self.remarked: set[str] = set()
        """Kinds of what was read otherwise than it stands there, each to be warned of once."""
        self.skipped: dict[str, str] = {}  # message -> kind; a fault met again in a later epoch counts once

    def report(self, kind: str, message: str) -> None:
        """Raise `DataError(message)`, or note that something of this kind ("empty caption") was skipped."""
        message = message.encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8
        if self.on_error == "raise":
            raise DataError(f"{message}. Mend it, or pass over such faults with --data.on_error skip")
        self.note(kind, message)

    def note(self, kind: str, message: str) -> None:
        """Count something that is passed over whatever the configuration says."""
        self.skipped.setdefault(message, kind)

    @property
    def counts(self) -> dict[str, int]:
        """How many were skipped, by kind."""
        return dict(Counter(self.skipped.values()))

    def summary(self) -> str:
        """One line: how many of which kind were skipped, and the first of them."""
        if not self.skipped:
            return "nothing skipped"
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.counts.items())
        return f"skipped {len(self.skipped)}: {kinds} (first: {next(iter(self.skipped))})"


@runtime_checkable
class Source(Protocol):
    """Records by position. `source[i]` is always the same record, and reads no image."""

    faults: Faults
    """What was found wrong so far; unreadable images are only found, and added, when they are decoded."""
    transform: ImageTransform
    """From its images to what the encoder reads; those that were stored as such pass unchanged."""

    def __len__(self) -> int:
        """Number of records (images)."""

    def __getitem__(self, index: int) -> Record:
        """The record at a position, 0 to len - 1."""

    @property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record; the same array each time, as every example of the pipeline asks for it."""

    @property
    def filenames(self) -> Sequence[str]:
        """Name of each record's image, one of its kind in the whole set."""
