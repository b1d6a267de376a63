"""Train a captioner: python -m dualcap_jax.train [--config FILE.py] [--workdir DIR] [--section.field VALUE ...]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dualcap_jax import cli
from dualcap_jax.config import ExperimentConfig, load_experiment, load_json, refuse_changed
from dualcap_jax.errors import ConfigError
from dualcap_jax.files import is_empty
from dualcap_jax.processes import DistributedConfig, distributed, together
from dualcap_jax.training.detection import DETECTOR

# What may change when a run is resumed: nothing that the trained weights or the order of the data hang on.
RESUMABLE = (
    "training.steps",
    "training.validate_every",
    "training.validation_images",
    "training.checkpoint_every",
    "training.on_save_error",
    "training.log_every",
    "decoding.",
    "evaluation.",
    "data.root",
    "data.features",
    "training.teacher",
    "sharding.",
    "model.encoder.remat",
    "model.language.remat",
    "data.read_threads",
    "data.on_error",
    "data.truncated",
    "data.max_pixels",
)


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    config: str = ""
    """Experiment file: Python with a get_config(). Empty: the embedded experiment, or the run's own when resuming."""
    workdir: str = ""
    """Run directory. One that holds a run is resumed. Empty: a new one under runs/."""
    describe_sharding: bool = False
    """Print how parameters and optimizer state lie on the devices, and end."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Which processes train together."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(default_factory=ExperimentConfig)
    """Fields of the experiment, over its file's."""


def parse(args: Sequence[str]) -> tuple[ExperimentConfig, Path, Literal["unnamed", "named", "resumed"]]:
    """The experiment, its run directory, and what it is.

    Raises:
        ConfigError: when the run directory holds something else, or a run that the arguments contradict.
    """
    named, _ = cli.first(Arguments, args)
    saved = None
    if named["workdir"] and (Path(named["workdir"]) / "config.json").is_file():
        saved = load_json(Path(named["workdir"]) / "config.json")
    if named["config"]:
        base = load_experiment(named["config"])
    elif saved is None and named["init-from"]:
        from dualcap_jax.resolving import experiment_of

        base = experiment_of(named["init-from"])
    else:
        base = saved or ExperimentConfig()
    description = "Train a captioner. Settings can also be read from a file (--config) and are saved with the run."
    default = Arguments(named["config"], named["workdir"], experiment=base)
    arguments = cli.parse(Arguments, args, "train", description, default)

    config = arguments.experiment
    name = Path(arguments.config).stem if arguments.config else "scenes"
    workdir = Path(arguments.workdir or f"runs/{datetime.now():%Y%m%d-%H%M%S}-{name}")
    training = config.training
    of_captioner = config.init_from and not (Path(config.init_from) / DETECTOR).is_file()
    if training.objective == "self_critical" and not of_captioner:
        raise ConfigError(
            "training.objective=self_critical: random captions teach nothing; begin with a captioner trained by cross "
            "entropy: --init-from RUN"
        )
    if training.teacher and training.objective != "distillation":
        print(
            f"warning: training.teacher={training.teacher}: not read with training.objective={training.objective}; "
            "give --training.objective distillation",
            file=sys.stderr,
        )
    if saved is None and training.warmup_steps > training.steps:
        print(
            f"warning: training.warmup_steps={training.warmup_steps} is more than training.steps={training.steps}: the "
            f"learning rate never rises to its height; give --training.warmup-steps {training.steps // 10}",
            file=sys.stderr,
        )
    if saved is not None:
        from dualcap_jax.resolving import as_resolved

        config = as_resolved(config, saved)
        refuse_changed(workdir, saved, config, RESUMABLE)
    elif arguments.workdir and workdir.exists() and not is_empty(workdir):
        raise ConfigError(f"--workdir {workdir}: exists and is no run directory; give a new or an empty one")
    return config, workdir, "resumed" if saved is not None else "named" if arguments.workdir else "unnamed"


def main(args: Sequence[str]) -> int:
    """Train, or go on training, then evaluate; returns the exit code."""
    named, _ = cli.first(Arguments, args)
    with together(distributed(named)):
        config, workdir, start = parse(args)
        from dualcap_jax.trainer import train_run

        return train_run(config, workdir, start, named["describe-sharding"] == "True")


if __name__ == "__main__":
    cli.run(main)
