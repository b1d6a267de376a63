"""Whether an experiment fits a device: python -m dualcap_jax.fit [--config FILE.py] --device NAME."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Literal

import jax
import tyro

from dualcap_jax import cli
from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.errors import ConfigError, require
from dualcap_jax.fields import bytes_of, suggestion
from dualcap_jax.fitting.compiling import absent_devices, compile_step
from dualcap_jax.fitting.devices import DEVICES, GIB
from dualcap_jax.fitting.largest import largest_that_fits
from dualcap_jax.fitting.steps import Step, decoding_steps, resolved, training_step
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.resolving import packs
from dualcap_jax.training.sharding import make_mesh

Dtype = Literal["float32", "bfloat16", "float16"]
Remat = Literal["none", "encoder", "language", "both", "products"]


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    config: str = ""
    """Experiment file: Python with a get_config(). Empty: the embedded experiment."""
    device: str = ""
    """Card to compile for, which need not be there, such as rtx2060, rtx3090, a100 or h100; or cpu. Empty: the GPU that
    is there."""
    devices: int = 1
    """Number of devices that a batch is divided among."""
    memory: str = ""
    """Memory of each device, such as 6GiB. Empty: the card's own."""
    share: float = 0.9
    """Share of the memory that XLA may take, more than 0 and at most 1. To train with it, set
    XLA_PYTHON_CLIENT_MEM_FRACTION to it: JAX takes 0.75 unless told."""
    batch_sizes: tuple[int, ...] = ()
    """Examples of a training batch, one or several numbers. Empty: the experiment's training.batch_size."""
    dtypes: tuple[Dtype, ...] = ()
    """Kinds of numbers to compute with, one or several. Empty: the experiment's model.dtype."""
    remats: tuple[Remat, ...] = ()
    """What the backward pass computes again, one or several choices: nothing, the blocks of one part or of both, or of
    both all but what convolutions and dense layers return (products). Empty: the experiment's."""
    fill: float = 1.0
    """Share of a caption's places that tokens take, more than 0 and at most 1, where captions are packed by their
    length. 1: captions as long as data.max_length, more than which no batch takes."""
    largest: bool = True
    """Search for the largest batch that fits, by three compilations or a few more."""
    decoding: bool = True
    """Compile encoding and searching too, for decoding.batch_size images."""
    json: bool = False
    """Print JSON, in bytes, instead of tables."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=ExperimentConfig)
    """Fields of the experiment, over its file's."""


Row = dict[str, Any]
"""A line of a table: what was compiled, `Usage`'s fields, and `fits`."""


def parse(args: Sequence[str]) -> Arguments:
    """The command line.

    Raises:
        ConfigError: for what can't be.
    """
    named, _ = cli.first(Arguments, args)
    base = load_experiment(named["config"]) if named["config"] else ExperimentConfig()
    description = "Compile an experiment's steps for a device that need not be there, and tell what they take of it."
    arguments = cli.parse(Arguments, args, "fit", description, Arguments(named["config"], experiment=base))
    known, name = (*DEVICES, "cpu"), arguments.device
    if name and name not in known:
        raise ConfigError(f"--device {name}: not known{suggestion(name, known)}; known: {', '.join(known)}")
    require(arguments.devices >= 1, "--devices", arguments.devices, "must be at least 1")
    for option in ("share", "fill"):
        value = getattr(arguments, option)
        require(0 < value <= 1, f"--{option}", value, "must be more than 0 and at most 1")
    unit = unit_of(arguments)
    for size in arguments.batch_sizes or (arguments.experiment.training.batch_size,):
        parts = f"training.accumulate={arguments.experiment.training.accumulate} times --devices {arguments.devices}"
        require(size >= 1 and size % unit == 0, "--batch-sizes", size, f"must be a multiple of {parts}")
    bytes_of("--memory", arguments.memory or "1GiB")
    return arguments


def unit_of(arguments: Arguments) -> int:
    """What batch sizes are multiples of."""
    return arguments.devices * arguments.experiment.training.accumulate


def with_remat(model: ModelConfig, remat: Remat | None) -> ModelConfig:
    """The network that computes this again in the backward pass; None: what it does already."""
    if remat is None:
        return model
    encoder, language = (remat in (part, "both") for part in ("encoder", "language"))
    blocks = replace(model.encoder, remat="blocks" if encoder else "none")
    layers = replace(model.language, remat="blocks" if language else "none")
    if remat == "products":
        blocks, layers = replace(model.encoder, remat="convolutions"), replace(model.language, remat="products")
    return replace(model, encoder=blocks, language=layers)


def main(args: Sequence[str]) -> int:
    """Compile and print; returns the exit code."""
    arguments = parse(args)
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
    return 0


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


HEAD = {
    "step": "step", "dtype": "computes in", "remat": "recomputes", "batch_size": "images", "model": "model",
    "optimizer": "optimizer", "batch": "batch", "temporaries": "temporaries", "peak": "peak", "flops": "TFLOP",
    "fits": "fits",
}  # fmt: skip
"""Columns of a table; those that a row lacks are left out."""


def report(about: Row, training: list[Row], largest: list[Row], decoding: list[Row]) -> Iterable[str]:
    """The tables, line by line."""
    yield f"experiment: {about['experiment']}; captions of an image: {about['captions_per_image']}, {about['places']}"
    many = f"{about['devices']} x " if about["devices"] > 1 else ""
    room = ""
    if about["limit"]:
        room = f", {_gib(about['memory'])} GiB each"
    if about["limit"] != about["memory"]:
        room += f", {_gib(about['limit'])} of it for XLA (XLA_PYTHON_CLIENT_MEM_FRACTION={about['share']:g})"
    yield f"device: {many}{about['device']}{room}"
    yield "GiB of each device; TFLOP (products and convolutions) of all together, of a search for one token"
    for rows in filter(None, (training, decoding)):
        yield ""
        yield from table(rows)
    if largest:
        yield ""
    for each in largest:
        found = each["batch_size"] or "none"
        yield f"largest batch that fits ({each['dtype']}, recomputes {each['remat']}): {found}"
    for row in training:
        for kind, (count, size) in row["collectives"].items():
            about_row = f"{row['batch_size']} images, {row['dtype']}, recomputes {row['remat']}"
            yield f"{kind} ({about_row}): {count}, {size / 2**20:,.1f} MiB of results"


def table(rows: list[Row]) -> Iterable[str]:
    """Rows under a head, in columns."""
    names = [name for name in HEAD if name in rows[0]]
    cells = [[HEAD[name] for name in names], *([_cell(name, row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        texts = zip(names, line, widths, strict=True)
        yield "  ".join(
            text.ljust(width) if name in ("step", "dtype", "remat") else text.rjust(width)
            for name, text, width in texts
        )


def _cell(name: str, value: Any) -> str:
    if name == "fits":
        return "yes" if value else "no"
    if name == "flops":
        return f"{value / 1e12:.3g}"
    return _gib(value) if name in ("model", "optimizer", "batch", "temporaries", "peak") else str(value)


def _gib(size: int) -> str:
    return f"{size / GIB:.3g}"


if __name__ == "__main__":
    cli.run(main)
