"""The steps of an experiment with the shapes of all that they take; neither data nor weights need be there."""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped as JitWrapped
from jaxtyping import Array, Key

from dualcap_jax import inference
from dualcap_jax.config import ExperimentConfig, load_run
from dualcap_jax.data.config import DataConfig
from dualcap_jax.decoding import Decoded, Rules
from dualcap_jax.encoding import features_of
from dualcap_jax.models import variables
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables
from dualcap_jax.pretrained.load import language_as_published
from dualcap_jax.resolving import encodes_once, packs, with_vocabulary
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.objectives.distillation import TEACHER, distillation
from dualcap_jax.training.objectives.self_critical import self_critical
from dualcap_jax.training.packing import Packer, Room
from dualcap_jax.training.sharding import abstract, batch_sharding
from dualcap_jax.training.state import shapes as state_shapes
from dualcap_jax.training.step import make_train_step

Shapes = Any
"""A tree of `jax.ShapeDtypeStruct`."""


@dataclass(frozen=True)
class Step:
    """A jitted function, `function(kept, *given)`, with the shapes that it is compiled for and how they lie."""

    name: str
    """What it does, in a word."""
    function: JitWrapped
    kept: Shapes
    """What stays on the device from call to call: the training state, or the network's variables."""
    given: tuple[Shapes, ...]
    """What comes with each call; the first axis of each array is that of the batch, or of its rows."""


def resolved(config: ExperimentConfig) -> tuple[ExperimentConfig, str]:
    """The experiment with the shapes that it leaves to weights and captions, and what is not known of them here.

    Nothing is downloaded: a language model on the hub is taken to be of the shape that the experiment says.

    Raises:
        PretrainedError: a directory of weights can't be read.
    """
    language, told = config.model.language, ""
    if language.pretrained is None:
        size = config.data.vocab_size
        if config.training.objective == "distillation":
            size = load_run(config.training.teacher).model.language.vocab_size
        return (config if config.data.tokenizer else with_vocabulary(config, size)), told
    if Path(language.pretrained).exists():
        model = replace(config.model, language=language_as_published(language))
        return replace(config, model=model), told
    if language.pretrained != "gpt2":  # of the shape that configs have by default
        told = f"model.language.pretrained={language.pretrained} is not looked up: its shape is the experiment's"
    return config, told


def training_step(config: ExperimentConfig, mesh: Mesh, size: int, fill: float = 1.0) -> Step:
    """The training step.

    Args:
        config: the experiment.
        mesh: devices that train.
        size: examples of the batch.
        fill: share of a caption's places that are taken, where captions are packed by their length.
    """
    training = config.training
    objective = cross_entropy(training.loss, training.freeze, training.label_smoothing)
    if training.objective == "self_critical":
        objective = self_critical()
    if training.objective == "distillation":
        teacher = load_run(training.teacher).model
        soft = training.temperature, training.soft_share, training.freeze, training.label_smoothing
        objective = distillation(teacher, abstract(mesh, variables.shapes(teacher)), *soft)
    state = abstract(mesh, state_shapes(config.model, training))
    step = make_train_step(config.model, training, objective, mesh)
    batch = batch_shapes(config, mesh, size, fill) | ({"given": objective.given} if objective.given else {})
    return Step("training", step.compiled, state, (batch,))


def batch_shapes(config: ExperimentConfig, mesh: Mesh, size: int, fill: float = 1.0) -> Shapes:
    """A training batch; arguments as of `training_step`."""
    data, training, merger = config.data, config.training, config.model.merger
    draws = training.objective == "self_critical"
    captions, length = training.samples_per_image if draws else data.captions_per_image, data.max_length
    blank = {"tokens": np.zeros((size, captions, length), np.int32), "mask": np.zeros((size, captions, length), bool)}
    if draws:
        blank["advantage"] = np.zeros((size, captions), np.float32)
    if packs(config):
        whole, parts = training.loss == "all_positions", training.accumulate * mesh.size
        share = 1.0 if whole else fill
        room = Room(ceil(size // parts * captions * share), ceil(captions * (length - 1) * share))
        blank = Packer(room, parts, whole, not merger.is_pointwise)(blank)
    accumulate, sharding = training.accumulate, batch_sharding(mesh, training.accumulate)

    def part(each: jax.ShapeDtypeStruct | np.ndarray) -> jax.ShapeDtypeStruct:
        shape = each.shape if accumulate == 1 else (accumulate, len(each) // accumulate, *each.shape[1:])
        return jax.ShapeDtypeStruct(shape, each.dtype, sharding=sharding)

    return jax.tree.map(part, blank | _image_shapes(config, size))


def _image_shapes(config: ExperimentConfig, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    seen = _feature_shapes(config, size) if encodes_once(config) else {"image": _images(config.data, size)}
    if config.training.objective == "distillation":
        features = _feature_shapes(load_run(config.training.teacher), size)
        seen |= {f"{TEACHER}{name}": each for name, each in features.items()}
    return seen


def _feature_shapes(config: ExperimentConfig, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Of what comes of so many images that were encoded once."""
    images = _images(config.data, size)
    features = jax.eval_shape(partial(features_of, config.model), variables.shapes(config.model), images)
    return {name: jax.ShapeDtypeStruct(each.shape, jnp.float16) for name, each in features.items()}


def _images(data: DataConfig, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, data.image_size, data.image_size, 3), jnp.uint8)


def decoding_steps(config: ExperimentConfig, mesh: Mesh, size: int) -> list[Step]:
    """Encoding so many images, and searching their captions."""
    model, images = config.model, _images(config.data, size)
    everywhere, divided = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)

    def lying(tree: Shapes, sharding: NamedSharding) -> Shapes:
        return jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding), tree)

    weights = lying(variables.shapes(model), everywhere)
    features = lying(jax.eval_shape(partial(inference.encode, model), weights, images), divided)
    keys = jax.ShapeDtypeStruct((size,), jax.random.key(0).dtype, sharding=divided)
    rules = Rules(replace(config.decoding, prompt="", bad_words=(), batch_size=1, seed=0), 0, 0)

    def encode(weights: Variables, images: Array) -> Image:
        return inference.encode(model, weights, images, mesh)

    def search(weights: Variables, features: Image, keys: Key[Array, " batch"]) -> Decoded:
        return inference.search(model, weights, features, jnp.zeros(1, jnp.int32), keys, rules, mesh)

    return [
        Step("encoding", jax.jit(encode), weights, (lying(images, divided),)),
        Step("searching", jax.jit(search), weights, (features, keys)),
    ]
