"""Self-critical sequence training (Rennie et al. 2017): captions are drawn, and become likelier or less likely by how
far their CIDEr-D is above or below a baseline."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from dualcap_jax import inference
from dualcap_jax.data.records import DataError, Source
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.decoding import Decoded, DecodingConfig, Rules
from dualcap_jax.evaluation.metrics.coco_caption import CiderD, document_frequencies
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.dual import DualCaptioner
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables
from dualcap_jax.ops.cross_entropy import fused_cross_entropy
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives import Batch, Objective, Sums, images_of
from dualcap_jax.training.objectives.cross_entropy import batch_hidden, labels_of
from dualcap_jax.training.packing import pack
from dualcap_jax.training.state import State, stepped_model
from dualcap_jax.training.step import Metrics, make_train_step

Rewards = Float[np.ndarray, "images captions"]
Search = Callable[[Variables, Image, Key[Array, " batch"]], Decoded]


def self_critical() -> Objective:
    """The objective: minus the mean over drawn captions of advantage times log-probability.

    A batch holds drawn captions, and `advantage`, float32 [batch, captions], or where it is packed [rows, length]: at
    each place that of its caption. The network runs as when they were drawn, without dropout and with running
    statistics: so the gradient's expectation is that of the expected reward, exactly.
    """

    def sums(network: DualCaptioner, batch: Batch, key: jax.Array | None) -> Sums:
        labels, real, _ = labels_of(batch)
        advantage = batch["advantage"] if "labels" in batch else batch["advantage"][..., None]
        hidden, weights = batch_hidden(network, batch, None, ()), jnp.where(real, advantage, 0)
        return {"loss": fused_cross_entropy(hidden, network.language.output_embedding, labels, weights)[0]}

    def weight(batch: Batch) -> Float[Array, ""]:
        is_first = batch["attended"] & (batch["positions"] == 0) if "labels" in batch else batch["mask"][..., 0]
        return jnp.sum(is_first, dtype=jnp.float32)

    return Objective(sums, "loss", weight)


def leave_one_out(rewards: Rewards) -> Rewards:
    """For each caption the mean reward of the image's other ones: a baseline that does not hang on the caption itself,
    and so leaves the expected gradient as it is."""
    return (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)


class Reward:
    """CIDEr-D, 0 to 10, of captions in tokens: of their text, cut into words as COCO-caption does.

    Args:
        source: The images, each with all its references.
        tokenizer: Gives the text.
        cider_d: With the document frequencies of the training captions.
    """

    def __init__(self, source: Source, tokenizer: CaptionTokenizer, cider_d: CiderD):
        records = map(source.__getitem__, range(len(source)))
        self._references: Mapping[int, Sequence[str]] = {record.image_id: record.captions for record in records}
        self._tokenizer, self._cider_d = tokenizer, cider_d

    def __call__(self, image_ids: Int[np.ndarray, " images"], found: Decoded) -> Rewards:
        """Of each caption found for each image."""
        tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
        rewards = np.zeros(lengths.shape)
        for image, image_id in enumerate(image_ids.tolist()):
            texts = [
                self._tokenizer.decode(caption[:length])
                for caption, length in zip(tokens[image], lengths[image], strict=True)
            ]
            rewards[image] = self._cider_d(texts, self._references[image_id])
        return rewards


def training_cider_d(source: Source) -> CiderD:
    """CIDEr-D with the document frequencies of a training split's captions.

    Raises:
        DataError: they give no n-gram a weight.
    """
    frequencies = document_frequencies(source[place].captions for place in range(len(source)))
    if frequencies.weightless:
        raise DataError(
            "training.objective=self_critical: no word tells one training image's captions from another's, and all "
            "rewards would be 0; train on images that differ"
        )
    return CiderD(frequencies)


def make_search(
    config: ModelConfig,
    tokenizer: CaptionTokenizer,
    max_length: int,
    samples: int | None = None,
    mesh: Mesh | None = None,
) -> Search:
    """`(variables, features, keys) -> captions` of encoded images: so many drawn ones of each, or its greedy one.

    Captions are drawn from the network's own distribution, which the gradient is of: none is forbidden.
    """
    drawing: dict[str, Any] = {} if samples is None else {"do_sample": True, "num_return_sequences": samples}
    settings = DecodingConfig(num_beams=1, max_length=max_length, **drawing)
    rules, start = Rules(settings, tokenizer.end_id, tokenizer.pad_id), np.array([tokenizer.start_id], np.int32)

    def search(variables: Variables, features: Image, keys: Key[Array, " batch"]) -> Decoded:
        return inference.search(config, variables, features, start, keys, rules, mesh)

    return search


def make_self_critical_step(
    config: ModelConfig,
    training: TrainingConfig,
    tokenizer: CaptionTokenizer,
    max_length: int,
    reward: Reward,
    mesh: Mesh | None = None,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """The training step, `(state, batch) -> (state, metrics)`; the captions in its batches are not read.

    Captions are drawn from the parameters that the step is about to change, and scored on the host. To the metrics of
    `make_train_step` come `reward` and `baseline`, means over the captions drawn.

    Args:
        config: the network.
        training: how it is trained.
        tokenizer: the run's.
        max_length: of drawn captions, in tokens; one that has not ended by then is scored and learnt as it is.
        reward: of captions of the training images.
        mesh: as of `make_train_step`.
    """
    train_step = make_train_step(config, training, self_critical(), mesh)
    draw = make_search(config, tokenizer, max_length, training.samples_per_image, mesh)
    search_greedily = make_search(config, tokenizer, max_length, mesh=mesh)
    apart, parts = not config.merger.is_pointwise, training.accumulate * (mesh.size if mesh else 1)
    seed = jax.random.key(training.seed + 2)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        variables, image_ids = stepped_model(state), batch["image_id"]
        features = inference.encode(config, variables, images_of(batch), mesh)
        keys = jax.random.split(jax.random.fold_in(seed, state["optimizer"]["step"]), len(image_ids))
        drawn = draw(variables, features, keys)
        greedy = search_greedily(variables, features, keys) if training.baseline == "greedy" else None
        rewards = reward(image_ids, drawn)
        baseline = leave_one_out(rewards) if greedy is None else reward(image_ids, greedy)
        batch = batch | {
            "tokens": np.asarray(drawn.tokens),
            "mask": np.arange(max_length) < np.asarray(drawn.lengths)[..., None],
            "advantage": (rewards - baseline).astype(np.float32),
        }
        if training.pack:
            batch = pack(batch, parts, apart)
        state, metrics = train_step(state, batch)
        return state, metrics | {"reward": jnp.float32(rewards.mean()), "baseline": jnp.float32(baseline.mean())}

    return step


def make_greedy_reward(
    config: ModelConfig, tokenizer: CaptionTokenizer, max_length: int, reward: Reward, mesh: Mesh | None = None
) -> Callable[[Variables, Batch], list[float]]:
    """`(variables, batch) -> rewards` of the greedy captions of a validation batch's images."""
    search = make_search(config, tokenizer, max_length, mesh=mesh)

    def rewards(variables: Variables, batch: Batch) -> list[float]:
        features = inference.encode(config, variables, images_of(batch), mesh)
        is_image = batch["image_id"] >= 0
        found = search(variables, features, jax.random.split(jax.random.key(0), len(is_image)))
        captions = Decoded(*(np.asarray(values)[is_image] for values in found))
        return reward(batch["image_id"][is_image], captions)[:, 0].tolist()

    return rewards
