"""An experiment's configuration: the configs of the rooms, composed, loaded and saved."""

import dataclasses
import json
import os
import re
import reprlib
import runpy
import shlex
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from dualcap_jax.data.config import DataConfig
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import ConfigError, UserError
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.fields import check_names, check_types, suggestion
from dualcap_jax.files import write_text
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import ENCODERS, EfficientDetConfig, EncoderConfig, efficientnet
from dualcap_jax.models.language_models import LANGUAGE_MODELS, LanguageModelConfig, gpt2
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.detection import DETECTOR
from dualcap_jax.training.sharding import ShardingConfig

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
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """How training is shared out over devices."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched for."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is scored and shown."""
    init_from: str = ""
    """Run to start a new one from: its directory, or a captioner that was saved or published. Its weights and tokenizer
    are taken, and its experiment too unless --config gives one. Of a detector, its backbone and BiFPN become the image
    encoder. Empty: start from the published weights that the model names, or from random ones."""

    def __post_init__(self) -> None:
        check_types(self, "")
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


_MOVED = {"efficientnet": efficientnet, "gpt2": gpt2}
"""Modules that experiment files written for version 0.1.0 import from `dualcap_jax.models`."""


@overload
def load_experiment(path: str | os.PathLike) -> ExperimentConfig: ...


@overload
def load_experiment(path: str | os.PathLike, kind: type[T]) -> T: ...


def load_experiment(path: str | os.PathLike, kind: type = ExperimentConfig) -> Any:
    """The configuration of this kind that `get_config()` of a Python file returns.

    Raises:
        ConfigError: when there is no such file, it defines no `get_config`, or a mistake in it ends it; names the line.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--config {path}: no such file")
    sys.path.insert(0, str(Path(path).resolve().parent))  # so that an experiment can build on the one beside it
    for old, module in _MOVED.items():
        sys.modules.setdefault(f"dualcap_jax.models.{old}", module)
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"--config {path}{line}: {_mistake(error, kind)}") from error
    finally:
        del sys.path[0]
    if not callable(get_config):
        raise ConfigError(f"--config {path}: defines no get_config()")
    if not isinstance(config, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        returned = type(config).__name__ if dataclasses.is_dataclass(config) else repr(config)
        raise ConfigError(f"--config {path}: get_config() returned {returned}, not {article} {kind.__name__}")
    return config


def _mistake(error: BaseException, kind: type) -> str:
    """What ended an experiment's file, in one line."""
    if isinstance(error, UserError):
        return str(error)
    told = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, dataclasses.FrozenInstanceError):
        return f"{told}; make a changed copy with dataclasses.replace"
    if misspelt := re.search(r"(?:(\w+)\.__init__\(\) )?got an unexpected keyword argument '(\w+)'", told):
        kinds = list(_dataclasses(kind))
        named = [kind for kind in kinds if kind.__name__ == misspelt[1]]
        known = [entry.name for kind in named or kinds for entry in dataclasses.fields(kind)]
        told += suggestion(misspelt[2], known)
    return told


def _dataclasses(kind: type) -> Iterator[type]:
    """A configuration's dataclass, and all that its fields may hold."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            for each in _KINDS.get(cast(type, hint), {"": hint}).values():
                yield from _dataclasses(cast(type, each))


VERSION = 3
"""Of config.json. A change of a field's name or meaning raises it, and adds a function to `_UPGRADES`."""

_KINDS: dict[type, Mapping[str, type]] = {EncoderConfig: ENCODERS, LanguageModelConfig: LANGUAGE_MODELS}
_KINDS[EfficientDetConfig] = {EfficientDetConfig.kind: EfficientDetConfig}
"""Fields whose dataclass hangs on their `kind`, by declared type."""


def _name_kinds(values: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one kind of encoder and one of language model, and named neither."""
    model = _object("model", values.get("model"))
    for part, kind in (("encoder", "efficientnet"), ("language", "gpt2")):
        _object(f"model.{part}", model.get(part))["kind"] = kind
    return values


def _name_remat(values: dict[str, Any]) -> dict[str, Any]:
    """Up to version 2, blocks were recomputed or not."""
    model = values.get("model")
    for part in ("encoder", "language"):
        fields = model.get(part) if isinstance(model, dict) else None
        if isinstance(fields, dict) and isinstance(fields.get("remat"), bool):  # what else there is, is judged later
            fields["remat"] = "blocks" if fields["remat"] else "none"
    return values


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _name_kinds, 2: _name_remat}
"""What makes the values of a version those of the next."""


def save_json(config: Any, path: str | os.PathLike) -> None:
    """Write the configuration as JSON, with its version, whole or not at all."""
    write_text(path, json.dumps({"version": VERSION, **_to_dict(config)}, indent=2) + "\n")


def _to_dict(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": config.kind} if isinstance(config, EncoderConfig | LanguageModelConfig) else {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        values[entry.name] = _to_dict(value) if dataclasses.is_dataclass(value) else value
    return values


@overload
def load_json(path: str | os.PathLike) -> ExperimentConfig: ...


@overload
def load_json(path: str | os.PathLike, kind: type[T]) -> T: ...


def load_json(path: str | os.PathLike, kind: type = ExperimentConfig) -> Any:
    """Read what `save_json` wrote of this kind, in this version or an older one.

    Raises:
        ConfigError: when the file is no configuration, naming the field that is wrong.
    """
    try:
        values = _object("it", json.loads(Path(path).read_text(encoding="utf-8")))
        version = values.pop("version", 1)
        if version not in (*_UPGRADES, VERSION):
            raise ConfigError(f"is of version {version!r}; this program reads versions up to {VERSION}: update it")
        for older in range(version, VERSION):
            values = _UPGRADES[older](values)
        return _from_dict(kind, values, "")
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not a configuration that can be read (mend it, or put back the one written with the weights): "
            f"{error}"
        ) from error


def _object(name: str, values: Any) -> dict[str, Any]:
    """What JSON holds under a name, which must be an object."""
    if not isinstance(values, dict):
        raise ConfigError(f"{name} is {reprlib.repr(values)}, not an object")
    return values


def _from_dict(kind: type[T], values: dict[str, Any], prefix: str) -> T:
    if kind in _KINDS:
        name = values.pop("kind", None)
        if name not in _KINDS[kind]:
            raise ConfigError(f"{prefix}kind={name!r} is not known here; known: {', '.join(_KINDS[kind])}")
        kind = cast(type[T], _KINDS[kind][name])
    hints = typing.get_type_hints(kind)
    check_names(kind, values)
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(cast(type, hints[name]), _object(f"{prefix}{name}", value), f"{prefix}{name}.")
        fields[name] = value
    return kind(**fields)


def load_run(workdir: str | os.PathLike) -> ExperimentConfig:
    """The configuration of a run directory, or of a captioner that was saved to one.

    Raises:
        ConfigError: when it is none, or its config.json cannot be read.
    """
    path = Path(workdir) / "config.json"
    if (Path(workdir) / DETECTOR).is_file():
        again = shlex.join(["python", "-m", "dualcap_jax.train", "--init-from", str(workdir)])
        raise ConfigError(
            f"{workdir}: the run of a detector, which captions nothing; {again} trains a captioner from it"
        )
    if not path.is_file():
        raise ConfigError(f"{workdir}: not a run directory (no config.json in it)")
    return load_json(path)


def refuse_changed(workdir: Path, saved: T, config: T, resumable: tuple[str, ...]) -> None:
    """Refuse to resume a run with another setting, but for those whose names begin so.

    Raises:
        ConfigError: names the settings.
    """
    changed = {
        name: (old, new)
        for name, (old, new) in differences(saved, config).items()
        if not name.startswith(resumable) or (name == "data.root" and "" in (old, new))  # images or drawn scenes
    }
    if changed:
        listed = "; ".join(f"{name} is {old!r}, asked for {new!r}" for name, (old, new) in changed.items())
        raise ConfigError(f"{workdir}: cannot be resumed with another setting: {listed}")


def differences(old: T, new: T) -> dict[str, tuple[Any, Any]]:
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
