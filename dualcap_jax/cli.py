"""What the commands share: arguments from dataclasses, and mistakes told in one line."""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

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
    """Run a command on the process's arguments and exit; a user's mistake is one line and code 2."""
    keep_freed_memory()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except Stopped as stop:
        print(stop, file=sys.stderr)
        code = stop.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code if isinstance(error, UserError) else 2
    sys.exit(code)
