"""An experiment's configuration: the configs of the rooms, composed, loaded and saved."""

import dataclasses
import json
import os
import runpy
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dualcap_jax.data.config import DataConfig
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.files import write_text
from dualcap_jax.models.dual import ModelConfig
from dualcap_jax.training.config import TrainingConfig

T = TypeVar("T")


@dataclass(frozen=True)
class ExperimentConfig:
    """A whole experiment; the defaults are the embedded run on scenes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Pictures and captions, and how they are prepared."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimizer, schedule, checkpoints."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched for."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is scored and shown."""

    def __post_init__(self):
        positions = self.model.language.max_positions
        for name in ("data", "decoding"):
            length = getattr(self, name).max_length
            if length > positions:
                raise ConfigError(
                    f"{name}.max_length={length}: must be at most model.language.max_positions={positions}"
                )
            if self.model.merger.norm == "batch" and length > self.model.merger.positions:
                raise ConfigError(
                    f"{name}.max_length={length}: must be at most model.merger.positions={self.model.merger.positions}"
                )


def load_experiment(path: str | os.PathLike) -> ExperimentConfig:
    """The configuration that `get_config()` of a Python file returns.

    Raises:
        ConfigError: when there is no such file, or it defines no `get_config`.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--config {path}: no such file")
    sys.path.insert(0, str(Path(path).resolve().parent))  # so that an experiment can build on the one beside it
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
    except Exception as error:
        raise ConfigError(f"--config {path}: {type(error).__name__}: {error}") from error
    finally:
        del sys.path[0]
    if not callable(get_config):
        raise ConfigError(f"--config {path}: defines no get_config()")
    try:
        config = get_config()
    except ValueError as error:  # a field's own check
        raise ConfigError(f"--config {path}: {error}") from error
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(f"--config {path}: get_config() returned {config!r}, not an ExperimentConfig")
    return config


def save_json(config: ExperimentConfig, path: str | os.PathLike) -> None:
    """Write the configuration as JSON, whole or not at all."""
    write_text(path, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def load_json(path: str | os.PathLike) -> ExperimentConfig:
    """Read what `save_json` wrote.

    Raises:
        ConfigError: when the file is no configuration, naming the field that is wrong.
    """
    try:
        values = json.loads(Path(path).read_text())
        return _from_dict(ExperimentConfig, values)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not a configuration of this version: {error}") from error


def _from_dict(kind: type[T], values: dict[str, Any]) -> T:
    hints = typing.get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(hints[name], value)
        elif isinstance(value, list):
            value = tuple(value)
        fields[name] = value
    return kind(**fields)


def differences(old: ExperimentConfig, new: ExperimentConfig) -> dict[str, tuple[Any, Any]]:
    """The fields, by dotted name, in which two configurations differ."""

    def flatten(prefix: str, value: Any) -> dict[str, Any]:
        if not dataclasses.is_dataclass(value):
            return {prefix: value}
        merged: dict[str, Any] = {}
        for entry in dataclasses.fields(value):
            merged |= flatten(f"{prefix}.{entry.name}".lstrip("."), getattr(value, entry.name))
        return merged

    before, after = flatten("", old), flatten("", new)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
