"""Whether an experiment fits a device: python -m dualcap_jax.fit [--config FILE.py] --device NAME."""

from collections.abc import Sequence

from dualcap_jax import cli
from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.errors import ConfigError, require
from dualcap_jax.fields import bytes_of, suggestion
from dualcap_jax.fitting.config import Arguments, unit_of
from dualcap_jax.fitting.devices import DEVICES


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


def main(args: Sequence[str]) -> int:
    """Compile and print; returns the exit code."""
    arguments = parse(args)
    from dualcap_jax.fitting.run import run

    run(arguments)
    return 0


if __name__ == "__main__":
    cli.run(main)
