"""What the commands share: arguments from dataclasses, and mistakes told in one line."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from dualcap_jax.config import ConfigError
from dualcap_jax.data.images import ImageError
from dualcap_jax.data.records import DataError
from dualcap_jax.training.checkpoints import CheckpointError
from dualcap_jax.training.loop import LossNotFinite, TrainingStopped

T = TypeVar("T")


def parse(kind: type[T], args: Sequence[str], command: str, description: str, default: Any = None) -> T:
    """Arguments of a command as an instance of the dataclass `kind`.

    Prints help, or what is wrong with which argument, and exits where need be (code 0 or 2).
    """
    return tyro.cli(
        kind,
        args=args,
        default=default,
        prog=f"python -m dualcap_jax.{command}",
        description=description,
        config=(tyro.conf.FlagConversionOff,),
    )


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Run a command on the process's arguments and exit; a user's mistake is one line and code 2."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        code = stop.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except LossNotFinite as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except (ConfigError, DataError, CheckpointError, ImageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
