"""Compiles an experiment's steps and tells what they take."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import jax

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.fields import bytes_of
from dualcap_jax.fitting.compiling import absent_devices, compile_step
from dualcap_jax.fitting.config import Arguments, unit_of, with_remat
from dualcap_jax.fitting.devices import DEVICES, GIB
from dualcap_jax.fitting.largest import largest_that_fits
from dualcap_jax.fitting.report import Row, report
from dualcap_jax.fitting.steps import Step, decoding_steps, resolved, training_step
from dualcap_jax.resolving import packs
from dualcap_jax.training.sharding import make_mesh


def run(arguments: Arguments) -> None:
    """Compile, and print what it takes.

    Raises:
        ConfigError: the device can't be compiled for, or the experiment not be resolved.
    """
    devices, memory, limit = _devices(arguments)
    config, told = resolved(arguments.experiment)
    mesh = make_mesh(config.sharding, arguments.devices, 1, devices)
    unit, sizes = unit_of(arguments), arguments.batch_sizes or (config.training.batch_size,)
    note = DEVICES[arguments.device].note if arguments.device in DEVICES else ""
    for line in filter(None, (told, note)):
        print(f"note: {line}", file=sys.stderr)

    def usage(step: Step, size: int, setting: Row) -> Row:
        about = ", ".join(str(value) for value in setting.values())
        print(f"compiling {step.name} of {size} images ({about}) ... ", end="", file=sys.stderr, flush=True)
        found = compile_step(step)
        print(f"{found.seconds:.0f} s", file=sys.stderr, flush=True)
        fits = limit is None or found.peak <= limit
        return {"step": step.name, **setting, "batch_size": size, **asdict(found), "fits": fits}

    training, decoding, largest = [], [], []
    for dtype in arguments.dtypes or (config.model.dtype,):
        for remat in arguments.remats or (None,):
            model = replace(with_remat(config.model, remat), dtype=dtype)
            setting: Row = {"dtype": dtype, "remat": f"{model.encoder.remat}, {model.language.remat}"}
            each = replace(config, model=model)

            @cache
            def row(size: int, each: ExperimentConfig = each, setting: Row = setting) -> Row:
                return usage(training_step(each, mesh, size, arguments.fill), size, setting)

            rows = {size: row(size) for size in sizes}

            def peak(size: int, row: Callable[[int], Row] = row, rows: dict[int, Row] = rows) -> int:
                rows[size] = row(size)
                return int(rows[size]["peak"])

            if arguments.largest and limit is not None:
                best = largest_that_fits(peak, limit, sizes[0], unit)
                largest.append({**setting, "batch_size": best})
            training += [rows[size] for size in sorted(rows)]
        if arguments.decoding:
            each, size = replace(config, model=replace(config.model, dtype=dtype)), config.decoding.batch_size
            size = -(-size // arguments.devices) * arguments.devices
            decoding += [usage(step, size, {"dtype": dtype}) for step in decoding_steps(each, mesh, size)]

    about = {
        "experiment": arguments.config or "the embedded one",
        "device": arguments.device or devices[0].device_kind,
        "devices": arguments.devices,
        "memory": memory,
        "share": arguments.share,
        "limit": limit,
        "captions_per_image": config.data.captions_per_image,
        "places": places(config, arguments.fill),
    }
    if arguments.json:
        print(json.dumps({**about, "training": training, "largest": largest, "decoding": decoding}, indent=2))
    else:
        print("\n".join(report(about, training, largest, decoding)))


def _devices(arguments: Arguments) -> tuple[list[Any], int | None, int | None]:
    """What is compiled for; the bytes that each has, and those that XLA may take of them, None where nobody knows."""
    memory = bytes_of("--memory", arguments.memory) if arguments.memory else None
    name, count = arguments.device, arguments.devices
    if name:
        devices = absent_devices(name, count)
        if name in DEVICES:
            memory = memory or round(DEVICES[name].memory * GIB)
    else:
        devices = jax.devices()
        if devices[0].platform != "gpu":
            raise ConfigError(f"no GPU is there: name one with --device, of {', '.join(DEVICES)}, or cpu")
        if len(devices) < count:
            raise ConfigError(f"--devices {count}: there are {len(devices)}; name a card with --device")
        if memory is None:  # what JAX has taken its share of already
            memory = (devices[0].memory_stats() or {}).get("bytes_limit")
            return devices[:count], memory, memory
    return devices[:count], memory, round(memory * arguments.share) if memory else None


def places(config: ExperimentConfig, fill: float) -> str:
    """How many places a caption was taken to have, in words."""
    width = config.data.max_length - 1
    if not packs(config) or config.training.loss == "all_positions":
        return f"each of {width} places, padding too"
    if fill == 1:
        return f"each of {width} places, the most that a packed batch takes"
    return f"packed, {100 * fill:.0f} % of {width} places each"
