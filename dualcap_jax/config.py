"""An experiment's configuration: the configs of the rooms, composed, loaded and saved."""

import dataclasses
import json
import os
import runpy
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from dualcap_jax.data.config import DataConfig
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.files import write_text
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import ENCODERS, EncoderConfig
from dualcap_jax.models.language_models import LANGUAGE_MODELS, LanguageModelConfig
from dualcap_jax.training.config import TrainingConfig

T = TypeVar("T")


@dataclass(frozen=True)
class ExperimentConfig:
    """A whole experiment; the defaults are the embedded run on scenes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images and captions, and how they are read."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimizer, schedule, checkpoints."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched for."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is scored and shown."""
    init_from: str = ""
    """Run to start a new one from: its directory, or a captioner that was saved or published. Its weights and tokenizer
    are taken, and its experiment too unless --config gives one. Empty: start from the published weights that the model
    names, or from random ones."""

    def __post_init__(self) -> None:
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


VERSION = 2
"""Of config.json. A change of a field's name or meaning raises it, and adds a function to `_UPGRADES`."""

_KINDS: dict[type, Mapping[str, type]] = {EncoderConfig: ENCODERS, LanguageModelConfig: LANGUAGE_MODELS}
"""Fields whose dataclass hangs on their `kind`, by declared type."""


def _name_kinds(values: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one kind of encoder and one of language model, and named neither."""
    values["model"]["encoder"]["kind"] = "efficientnet"
    values["model"]["language"]["kind"] = "gpt2"
    return values


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _name_kinds}
"""What makes the values of a version those of the next."""


def save_json(config: ExperimentConfig, path: str | os.PathLike) -> None:
    """Write the configuration as JSON, with its version, whole or not at all."""
    write_text(path, json.dumps({"version": VERSION, **_to_dict(config)}, indent=2) + "\n")


def _to_dict(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": config.kind} if isinstance(config, EncoderConfig | LanguageModelConfig) else {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        values[entry.name] = _to_dict(value) if dataclasses.is_dataclass(value) else value
    return values


def load_json(path: str | os.PathLike) -> ExperimentConfig:
    """Read what `save_json` wrote, in this version or an older one.

    Raises:
        ConfigError: when the file is no configuration, naming the field that is wrong.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ConfigError(f"holds {values!r}, not an object")
        version = values.pop("version", 1)
        if version not in (*_UPGRADES, VERSION):
            raise ConfigError(f"is of version {version!r}; this program reads versions up to {VERSION}: update it")
        for older in range(version, VERSION):
            values = _UPGRADES[older](values)
        return _from_dict(ExperimentConfig, values)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not a configuration that can be read: {error}") from error


def _from_dict(kind: type[T], values: dict[str, Any]) -> T:
    if kind in _KINDS:
        name = values.pop("kind")
        if name not in _KINDS[kind]:
            raise ConfigError(f"kind {name!r} is not known here; known: {', '.join(_KINDS[kind])}")
        kind = cast(type[T], _KINDS[kind][name])
    hints = typing.get_type_hints(kind)
    names = {entry.name for entry in dataclasses.fields(cast(Any, kind))}
    if unknown := values.keys() - names:
        raise ConfigError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(cast(type, hints[name]), value)
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
