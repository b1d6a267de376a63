"""Several processes, on one host or many, that train or evaluate together; jax.distributed connects them.

All do the same; the first alone prints and writes what is not a checkpoint.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dualcap_jax.errors import ConfigError, Stopped, UserError, require
from dualcap_jax.fields import check_types

T = TypeVar("T")

GONE = ("Gloo", "NCCL", "UNAVAILABLE", "oordination service", "eartbeat")
"""What JAX's errors say where another process has gone."""

LAST = 3600
"""Seconds that the others wait at the end for the first, which scores and draws."""


@dataclass(frozen=True)
class DistributedConfig:
    """Which processes work together. Start the same command once for each."""

    processes: int = 1
    """How many there are. 0: as many as SLURM, Open MPI, Kubernetes or a Cloud TPU tells, and coordinator and process
    too."""
    coordinator: str = ""
    """HOST:PORT at which all reach process 0."""
    process: int = -1
    """Number of this process, from 0."""

    def __post_init__(self) -> None:
        check_types(self, "distributed.")
        require(self.processes >= 0, "distributed.processes", self.processes, "must be at least 0")
        if self.processes > 1:
            has_port = self.coordinator.rpartition(":")[2].isdecimal()
            message = "must be HOST:PORT of process 0, the same for all processes"
            require(has_port, "distributed.coordinator", self.coordinator, message)
            message = f"must be 0 to {self.processes - 1}, another for each process"
            require(0 <= self.process < self.processes, "distributed.process", self.process, message)


def distributed(named: Mapping[str, str]) -> DistributedConfig:
    """The same of a command line's options as text: they are read before JAX does anything.

    Raises:
        ConfigError: an impossible value.
    """
    values: dict[str, Any] = {}
    for name in ("processes", "coordinator", "process"):
        text = named[f"distributed.{name}"]
        whole = name == "coordinator" or not text or text.removeprefix("-").isdecimal()
        require(whole, f"distributed.{name}", text, "must be a whole number")
        if text:
            values[name] = text if name == "coordinator" else int(text)
    return DistributedConfig(**values)


class Unconnected(UserError):
    """Processes that should work together do not find or no longer hear each other."""

    exit_code = 1
    at_once = True


@contextmanager
def together(config: DistributedConfig) -> Iterator[None]:
    """Work together with other processes within the block; all but the first print nothing there.

    Raises:
        ConfigError: nothing tells which processes there are.
        Unconnected: they do not find each other, or one of them has gone.
    """
    if config.processes == 1:
        yield
        return
    jax.config.update("jax_enable_preemption_service", False)  # signals are ours to answer
    told = config.processes > 0
    try:
        jax.distributed.initialize(
            config.coordinator if told else None,
            config.processes if told else None,
            config.process if told else None,
            shutdown_timeout_seconds=LAST,
        )
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"distributed.processes={config.processes}: nothing tells which processes there are ({error}); give "
            "--distributed.processes N --distributed.process I --distributed.coordinator HOST:PORT"
        ) from None
    except RuntimeError as error:
        raise Unconnected(f"distributed.coordinator={config.coordinator}: {_first_line(error)}") from None
    stdout = sys.stdout
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
    try:
        yield
        jax.distributed.shutdown()
    except Stopped:  # all of them
        jax.distributed.shutdown()
        raise
    except UserError as error:
        error.at_once = True  # the others do not come to an end with this one, and it must not wait for them
        raise
    except Exception as error:  # whose kind hangs on where it was met
        if not any(word in str(error) for word in GONE):
            raise
        message = f"another process has gone ({_first_line(error)}); the same commands go on where they were"
        raise Unconnected(message) from error
    finally:
        sys.stdout = stdout


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def gathered(value: Any) -> list[Any]:
    """The value of each process, in order; made of what JSON can hold."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    rows = multihost_utils.process_allgather(np.resize(data, sizes.max()))
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def of_first(value: Any) -> Any:
    """The value of the first process."""
    return gathered(value)[0]


def in_turn(dealt: list[T]) -> list[T]:
    """Of what was dealt out to the processes in turn, what each made of its share, put together again."""
    shares = gathered(dealt)
    longest = max(map(len, shares))  # not always the first one's: some may have skipped what is broken
    return [share[place] for place in range(longest) for share in shares if place < len(share)]


@contextmanager
def first_alone() -> Iterator[bool]:
    """A block whose work the first process does: tells each whether it is that one.

    Raises:
        UserError: in every process, what the first one's block raised.
    """
    mistake: UserError | None = None
    try:
        yield is_first()
    except UserError as error:
        mistake = error
    told = of_first(str(mistake) if mistake else None)
    if mistake:
        raise mistake
    if told is not None:
        raise UserError(f"process 0: {told}")
