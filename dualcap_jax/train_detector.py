"""Train a detector: python -m dualcap_jax.train_detector [--config FILE.py] [--workdir DIR] [--field VALUE ...]."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dualcap_jax import cli
from dualcap_jax.config import load_experiment, load_json, refuse_changed
from dualcap_jax.detector import DetectorExperiment, load_experiment_of
from dualcap_jax.errors import ConfigError
from dualcap_jax.files import is_empty
from dualcap_jax.training.detection import DETECTOR

# What may change when a run is resumed: nothing that the trained weights or the order of the data hang on.
RESUMABLE = (
    "training.steps",
    "training.validate_every",
    "training.validation_images",
    "training.checkpoint_every",
    "training.on_save_error",
    "training.log_every",
    "data.root",
    "data.read_threads",
    "data.on_error",
    "data.truncated",
    "data.max_pixels",
    "sharding.",
    "model.encoder.remat",
)


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    config: str = ""
    """Experiment file: Python whose get_config() returns a DetectorExperiment. Empty: that of the embedded scenes, or
    the run's own when resuming."""
    workdir: str = ""
    """Run directory. One that holds a detector's run is resumed. Empty: a new one under runs/."""
    experiment: Annotated[DetectorExperiment, tyro.conf.arg(name="")] = field(default_factory=DetectorExperiment)
    """Fields of the experiment, over its file's."""


def parse(args: Sequence[str]) -> tuple[DetectorExperiment, Path, Literal["unnamed", "named", "resumed"]]:
    """The experiment, its run directory, and what it is.

    Raises:
        ConfigError: when the run directory holds something else, or a run that the arguments contradict.
    """
    named, _ = cli.first(Arguments, args)
    saved = None
    if named["workdir"] and (Path(named["workdir"]) / DETECTOR).is_file():
        saved = load_json(Path(named["workdir"]) / DETECTOR, DetectorExperiment)
    if named["config"]:
        base = load_experiment(named["config"], DetectorExperiment)
    elif saved is None and named["init-from"]:
        base = load_experiment_of(named["init-from"])
    else:
        base = saved or DetectorExperiment()
    description = "Train a detector on images with boxes, for --init-from of the train command."
    default = Arguments(named["config"], named["workdir"], base)
    arguments = cli.parse(Arguments, args, "train_detector", description, default)

    config = arguments.experiment
    name = Path(arguments.config).stem if arguments.config else "detector"
    workdir = Path(arguments.workdir or f"runs/{datetime.now():%Y%m%d-%H%M%S}-{name}")
    if saved is not None:
        old, encoder = saved.model.encoder, config.model.encoder  # what the data and pretrained weights filled in
        normalization = encoder.normalization or old.normalization
        encoder = replace(encoder, num_classes=old.num_classes, normalization=normalization)
        config = replace(config, model=replace(config.model, encoder=encoder))
        refuse_changed(workdir, saved, config, RESUMABLE)
        return config, workdir, "resumed"
    if arguments.workdir and workdir.exists() and not is_empty(workdir):
        raise ConfigError(f"--workdir {workdir}: exists and is no detector's run; give a new or an empty one")
    return config, workdir, "named" if arguments.workdir else "unnamed"


def main(args: Sequence[str]) -> int:
    """Train, or go on training; returns the exit code."""
    config, workdir, start = parse(args)
    from dualcap_jax.detector_trainer import train_run

    return train_run(config, workdir, start)


if __name__ == "__main__":
    cli.run(main)
