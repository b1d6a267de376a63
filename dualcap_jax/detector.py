"""A detector's experiment and its run; and what a captioner takes of it."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dualcap_jax.config import load_json
from dualcap_jax.data.boxes.config import BoxesConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.fields import check_types
from dualcap_jax.models import variables
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.detector import DetectorConfig
from dualcap_jax.models.encoders import EfficientDetConfig
from dualcap_jax.models.variables import Variables
from dualcap_jax.training.detection import DETECTOR, DetectorTrainingConfig
from dualcap_jax.training.restoring import differing, restore_model
from dualcap_jax.training.sharding import ShardingConfig


@dataclass(frozen=True)
class DetectorExperiment:
    """A detector's experiment; the defaults train on the embedded scenes."""

    model: DetectorConfig = field(default_factory=DetectorConfig)
    """The network."""
    data: BoxesConfig = field(default_factory=BoxesConfig)
    """Images with boxes, and how they are read."""
    training: DetectorTrainingConfig = field(default_factory=DetectorTrainingConfig)
    """Optimizer, schedule, checkpoints."""
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """How training is shared out over devices."""
    init_from: str = ""
    """Run directory of a detector to start a new one from; its weights are taken, and its experiment too unless
    --config gives one. Empty: start from the published weights that the model names, or from random ones."""

    def __post_init__(self) -> None:
        check_types(self, "")


class TrainedDetector(NamedTuple):
    """A detector, and what it was trained by."""

    config: DetectorExperiment
    model: Variables


def is_detector(source: str) -> bool:
    """Whether this is the run directory of a detector."""
    return (Path(source) / DETECTOR).is_file()


def load_experiment_of(workdir: str) -> DetectorExperiment:
    """The experiment of a detector's run.

    Raises:
        ConfigError: it is none, or can't be read.
    """
    if not is_detector(workdir):
        raise ConfigError(f"--init-from {workdir}: not the run directory of a detector (no {DETECTOR} in it)")
    return load_json(Path(workdir) / DETECTOR, DetectorExperiment)


def load_detector(workdir: str) -> TrainedDetector:
    """The detector of a run directory, the best by validation.

    Raises:
        ConfigError: it is none.
        CheckpointError: it has no checkpoint yet.
    """
    config = load_experiment_of(workdir)
    return TrainedDetector(config, restore_model(Path(workdir), variables.shapes(config.model), "best")[0])


def encoder_of(source: str, detector: TrainedDetector, model: ModelConfig) -> Variables:
    """What a captioner's encoder takes of a detector: backbone and BiFPN, and the heads where it has them.

    Args:
        source: the detector's run.
        detector: the detector.
        model: the captioner's.

    Raises:
        ConfigError: the encoder is another than the detector.
    """
    ours, theirs = model.encoder, detector.config.model.encoder
    if not isinstance(ours, EfficientDetConfig):
        again = shlex.join(["python", "-m", "dualcap_jax.train", "--init-from", source])
        raise ConfigError(
            f"--init-from {source}: its detector is an {theirs.kind}, and model.encoder.kind is {ours.kind}; {again}, "
            "without --config, takes the detector as the encoder"
        )
    for name in ("variant", "normalization"):
        here, there = getattr(ours, name), getattr(theirs, name)
        if here != there:
            option = f"--model.encoder.{name} {there}"
            raise ConfigError(
                f"--init-from {source}: its detector has {name} {there}, and model.encoder.{name} is {here}: they must "
                f"be the same; give {option}"
            )
    wanted = {kind: tree["encoder"] for kind, tree in variables.shapes(model).items()}
    found = {kind: _pruned(detector.model[kind]["encoder"], tree) for kind, tree in wanted.items()}
    if told := differing(found, wanted):
        raise ConfigError(f"--init-from {source}: its detector is another {theirs.kind} than model.encoder: {told}")
    return found


def _pruned(tree: Any, wanted: Any) -> Any:
    """What of a tree has a place in another."""
    if not isinstance(wanted, dict):
        return tree
    return {key: _pruned(tree[key], each) for key, each in wanted.items() if key in tree}
