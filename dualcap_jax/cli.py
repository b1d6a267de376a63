"""What the commands share: arguments from dataclasses, and mistakes told in one line."""

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import tyro

from dualcap_jax import interrupts
from dualcap_jax.errors import ConfigError, Stopped, UserError

T = TypeVar("T")


def parse(kind: type[T], args: Sequence[str], command: str, description: str, default: Any = None) -> T:
    """Arguments of a command as an instance of the dataclass `kind`.

    Prints help, or what is wrong with which argument, and exits where need be (code 0 or 2).

    Raises:
        ConfigError: for a field with an impossible value.
    """
    try:
        return tyro.cli(
            kind,
            args=args,
            default=default,
            prog=f"python -m dualcap_jax.{command}",
            description=description,
            config=(tyro.conf.FlagConversionOff,),
        )
    except ValueError as error:  # of fields without a prefix, which tyro lets through
        raise ConfigError(str(error)) from None


def keep_freed_memory() -> None:
    """Let glibc keep what it is given back, for the next step.

    XLA on CPU frees its buffers after each step; handing them to the kernel and getting them back as zeroed pages cost
    a quarter of a small network's training time. Blocks of over 64 MiB come anew all the same, as its threads' arenas
    hold no larger ones; a single arena for all threads (M_ARENA_MAX) keeps them, but made small networks slower.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4  # of malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_max, 0)


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Run a command on the process's arguments and exit.

    A user's mistake is one line and code 2; a signal that asked for an end is code 128 + its number.
    """
    keep_freed_memory()
    _open_closed_streams()
    with _only_ours(), interrupts.listening():
        code = _exit_code(main)
        if interrupts.asked() is not None:
            os._exit(code)  # XLA's threads may be compiling still, and Python would crash while it takes itself apart
    sys.exit(code)


@contextlib.contextmanager
def _only_ours() -> Iterator[None]:
    """Keep libraries from printing what became of work that a failure, told by us, made needless."""
    before = sys.unraisablehook, threading.excepthook
    sys.unraisablehook, threading.excepthook = lambda _: None, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = before


def _exit_code(main: Callable[[Sequence[str]], int]) -> int:
    """Run a command, tell how it failed."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
        return code
    except Stopped as stop:
        _tell(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        if interrupts.asked() is None:
            _tell("interrupted")
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, OSError) as error:
        if interrupts.asked() is None:
            _tell(f"error: {error}")
            code = error.exit_code if isinstance(error, UserError) else 2
            if getattr(error, "at_once", False) or getattr(error, "errno", None) == errno.ENOSPC:
                os._exit(code)  # libraries would try once more to write, and say at length that they can't
            return code
    except Exception:
        if interrupts.asked() is None:  # else what an interrupt became on its way through a library
            raise
    interrupts.tell()
    return 128 + (interrupts.asked() or signal.SIGINT)


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _open_closed_streams() -> None:
    """Let a stream that was closed when the process began (`>&-`) lead nowhere, not into the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: the stream's own
            setattr(sys, name, os.fdopen(nowhere, mode))
