"""How far what is read may be from sound: images cut short or of many pixels, and entries that are broken."""

import argparse
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

from dualcap_jax.errors import require

MAX_PIXELS = 89_478_485
"""Pillow's own limit; an image of more pixels may be a decompression bomb."""

Kind = TypeVar("Kind", bound="ImagesConfig")
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """Which images are read."""

    truncated: Literal["refuse", "accept"] = "refuse"
    """An image file that lacks its last bytes: refuse it, or accept what is there of it."""
    max_pixels: int = MAX_PIXELS
    """Pixels of an image file at most. A JPEG of more than 89,478,485 is decoded at half its size or less, so that
    memory stays bounded."""

    def __post_init__(self) -> None:
        """Check each field."""
        kinds = ("refuse", "accept")
        require(self.truncated in kinds, "data.truncated", self.truncated, "must be 'refuse' or 'accept'")
        require(self.max_pixels >= 1, "data.max_pixels", self.max_pixels, "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(ImagesConfig):
    """Which images are read, and what is done about what is broken."""

    on_error: Literal["raise", "skip"] = "raise"
    """A broken or missing image or caption: stop and name it, or skip it, count and report."""

    def __post_init__(self) -> None:
        """Check each field."""
        super().__post_init__()
        require(self.on_error in ("raise", "skip"), "data.on_error", self.on_error, "must be 'raise' or 'skip'")


@dataclass(frozen=True, kw_only=True)
class LoadingConfig(ReadingConfig):
    """Which images are read, by what, and what is done about what is broken."""

    read_threads: int = 2
    """Threads that read and decode images, in each process. 0: the training thread reads them itself."""
    workers: int = 0
    """Extra processes that read and decode images. 0: none."""

    def __post_init__(self) -> None:
        """Check each field."""
        super().__post_init__()
        for name in ("read_threads", "workers"):
            value = getattr(self, name)
            require(value >= 0, f"data.{name}", value, "must be at least 0")


def add_arguments(parser: argparse.ArgumentParser, kind: type[ImagesConfig]) -> None:
    """Give a script the options of `ImagesConfig` or `ReadingConfig`, named as the commands name them."""
    group = parser.add_argument_group("what is read, as in the commands")
    group.add_argument(
        "--data.truncated", "--truncated", dest="truncated", choices=["refuse", "accept"], default="refuse",
        help="images that lack their last bytes (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--data.max-pixels", "--data.max_pixels", "--max-pixels", dest="max_pixels", type=int, default=MAX_PIXELS,
        help="pixels of an image at most (%(default)s)",
    )  # fmt: skip
    if kind is ImagesConfig:
        return
    group.add_argument(
        "--data.on-error", "--data.on_error", "--on-error", dest="on_error", choices=["raise", "skip"],
        default="raise", help="broken entries (%(default)s)",
    )  # fmt: skip


def part(kind: type[Kind], values: object) -> Kind:
    """The fields of `ImagesConfig` or `ReadingConfig` out of what has them: a larger config, or parsed arguments."""
    return kind(**{field.name: getattr(values, field.name) for field in dataclasses.fields(kind)})


TOGETHER = 8
"""Items that a thread is given at a time: of small images, handing over one costs as much as decoding it."""


def map_ahead(function: Callable[[T], U], items: Iterable[T], threads: int, ahead: int = 0) -> Iterator[U]:
    """`map` by threads, in order, never far ahead of what is asked for: by as many items as keep the threads at work,
    or by `ahead` where that is more."""
    left = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[U]]] = deque()
        try:
            while some := list(islice(left, TOGETHER)):
                waiting.append(pool.submit(lambda some: [function(item) for item in some], some))
                if len(waiting) > max(2 * threads, ahead // TOGETHER):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
