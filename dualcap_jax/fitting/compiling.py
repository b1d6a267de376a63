"""Steps compiled for devices, there or not, and what they take of them."""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.stages import Compiled

from dualcap_jax.errors import UserError
from dualcap_jax.fitting.devices import target
from dualcap_jax.fitting.flops import flops
from dualcap_jax.fitting.steps import Shapes, Step

FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
"""Autotuning runs what it chooses from, and Triton's products need it."""

INSTALL = "the compiler for NVIDIA GPUs is not installed: pip install 'dualcap-jax[gpu]'"

MISSING = ("libdevice not found", "No PTX compilation provider")
"""What XLA says where NVIDIA's part of the compiler is not there."""


class NoCompiler(UserError):
    """What compiling for the device needs is not installed."""


@dataclass(frozen=True)
class Usage:
    """What a step takes of each device, in bytes, and what it computes."""

    model: int
    """Parameters and batch statistics."""
    optimizer: int
    """Optimizer state, the loss scale and the average of the parameters among it."""
    batch: int
    """What comes with each call."""
    temporaries: int
    """What XLA keeps meanwhile: activations, gradients, workspaces that it knows of."""
    peak: int
    """All that is there at once: arguments, temporaries, and results that take no argument's place."""
    flops: int
    """Products and convolutions of one call, on all devices together; a search counts one token."""
    collectives: dict[str, tuple[int, int]]
    """What devices send each other: number and bytes of the results, by kind; each loop counted once."""
    seconds: float
    """That compiling took."""


def absent_devices(name: str, count: int) -> list[Any]:
    """Devices to compile for, of a card that isn't there, or of this machine's CPU.

    Called before anything ran on a device. What is compiled for an absent card is not kept for the next start.

    Args:
        name: of `DEVICES`, or "cpu".
        count: how many.

    Raises:
        NoCompiler: there is none for it.
    """
    on_cpu = f" --xla_force_host_platform_device_count={count}" if name == "cpu" and count > 1 else ""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}{on_cpu}"
    jax.config.update("jax_platforms", "cpu")
    if name == "cpu":
        return jax.devices()[:count]
    jax.config.update("jax_enable_compilation_cache", False)  # what is kept for it can't be read without the card
    with _silent():
        try:
            found = get_topology_desc(
                platform="cuda", topology_name=name, target_config=target(name), topology=f"1x1x{count}"
            )
        except NotImplementedError as error:
            raise NoCompiler(f"--device {name}: {INSTALL}") from error
    return list(found.devices)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what CUDA's libraries write of there being no GPU."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def compile_step(step: Step) -> Usage:
    """Compile a step for the devices that its shapes lie on.

    Raises:
        NoCompiler: part of the compiler is not installed.
    """
    start, devices = time.monotonic(), jax.tree.leaves(step.kept)[0].sharding.num_devices
    try:
        traced = step.function.trace(step.kept, *step.given)
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if any(each in str(error) for each in MISSING):
            raise NoCompiler(INSTALL) from error
        raise
    seconds = time.monotonic() - start
    parts = step.kept if step.name == "training" else {"model": step.kept}
    return Usage(
        model=_bytes_of(parts["model"]),
        optimizer=_bytes_of(parts.get("optimizer", ())),
        batch=_bytes_of(step.given),
        temporaries=compiled.memory_analysis().temp_size_in_bytes,
        peak=peak_of(compiled),
        flops=flops(traced.jaxpr),
        collectives=collectives(compiled.as_text()) if devices > 1 else {},
        seconds=seconds,
    )


def peak_of(compiled: Compiled) -> int:
    """Bytes of each device that a compiled function takes at once: arguments, temporaries, and results that take no
    argument's place."""
    memory: Any = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(kept + memory.temp_size_in_bytes)


def _bytes_of(tree: Shapes) -> int:
    """On each device."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


_COLLECTIVE = re.compile(
    r"= (?P<shape>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-done)?\("
)
_ARRAY = re.compile(r"\b([a-z]+)(\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Number and bytes of results of a compiled program's collectives, by kind.

    Args:
        hlo: the program's text. Of one begun and awaited apart, what is awaited counts.
    """
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for found in _COLLECTIVE.finditer(hlo):
        count[found["kind"]] += 1
        size[found["kind"]] += sum(
            (int(bits or 8) + 7) // 8 * int(np.prod([int(each) for each in axes.split(",") if each]))
            for _, bits, axes in _ARRAY.findall(found["shape"])
        )
    return {kind: (count[kind], size[kind]) for kind in sorted(count)}
