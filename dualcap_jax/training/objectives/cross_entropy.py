"""Cross entropy of each caption's next token."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.models.config import ModelConfig, Part
from dualcap_jax.models.dual import DualCaptioner, Packing
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables, bind
from dualcap_jax.ops.cross_entropy import fused_cross_entropy
from dualcap_jax.training.objectives import Batch, Objective, Sums, images_of

_WEIGHTS = {"nll": "tokens", "smoothed": "tokens", "nll_all": "positions"}


def cross_entropy(
    loss: Literal["real_tokens", "all_positions"] = "real_tokens",
    frozen: Collection[Part] = (),
    smoothing: float = 0.0,
) -> Objective:
    """The objective; `loss`, `frozen` and `smoothing` as `TrainingConfig.loss`, `.freeze` and `.label_smoothing`."""
    minimised = "nll_all" if loss == "all_positions" else "smoothed" if smoothing else "nll"

    def weight(batch: Batch) -> Float[Array, ""]:
        return jnp.maximum(_counts(*labels_of(batch)[1:])[_WEIGHTS[minimised]], 1)

    return Objective(partial(caption_sums, frozen=frozen, smoothing=smoothing, minimised=minimised), minimised, weight)


def caption_sums(
    network: DualCaptioner,
    batch: Batch,
    key: jax.Array | None = None,
    frozen: Collection[Part] = (),
    smoothing: float = 0.0,
    minimised: str = "nll",
) -> Sums:
    """`label_sums` of a batch, packed or not; with a key in training."""
    hidden, embedding = batch_hidden(network, batch, key, frozen), network.language.output_embedding
    return label_sums(hidden, embedding, *labels_of(batch), smoothing, minimised)


def batch_hidden(
    network: DualCaptioner, batch: Batch, key: jax.Array | None, frozen: Collection[Part]
) -> Float[Array, "*places width"]:
    """Hidden states of all tokens of a batch but the last, which predicts nothing; with a key in training."""
    packing = Packing(*(batch[name] for name in Packing._fields)) if "labels" in batch else None
    inputs = (batch["tokens"], batch["attended"]) if packing else (batch["tokens"][..., :-1], batch["mask"][..., :-1])
    return network.merged(images_of(batch), *inputs, packing, train=key is not None, key=key, frozen=frozen)


@partial(jax.jit, static_argnames="config")
def losses_of(
    config: ModelConfig,
    variables: Variables,
    features: Image,
    tokens: Int[Array, "batch captions length"],
    mask: Bool[Array, "batch captions length"],
) -> Sums:
    """`token_sums` of captions of encoded images."""
    network = bind(config, variables)
    hidden = network.merged_with(features, tokens[..., :-1], mask[..., :-1])
    return token_sums(hidden, network.language.output_embedding, tokens, mask)


Labels = tuple[Int[Array, "*places"], Bool[Array, "*places"], Bool[Array, "*places"] | None]
"""The token to predict at each place; where it is real; where there is a caption, unless only real ones are there."""


def labels_of(batch: Batch) -> Labels:
    """What a batch has to predict."""
    if "labels" in batch:
        return batch["labels"], batch["real"], batch.get("counted")
    return _labels(batch["tokens"], batch["mask"])


def _labels(tokens: Int[Array, "*captions length"], mask: Bool[Array, "*captions length"]) -> Labels:
    real = mask[..., 1:]
    return tokens[..., 1:], real, jnp.broadcast_to(mask[..., :1], real.shape)


def token_sums(
    hidden: Float[Array, "batch captions positions width"],
    embedding: Float[Array, "vocab width"],
    tokens: Int[Array, "batch captions length"],
    mask: Bool[Array, "batch captions length"],
) -> Sums:
    """Sums from which both losses are made.

    Args:
        hidden: for the tokens after the first: one position fewer than tokens.
        embedding: of the tokens; a logit is its product with a hidden state.
        tokens: the captions.
        mask: True on real tokens.

    Returns:
        `nll` over the `tokens` real tokens, and `nll_all` over the `positions` of captions that exist (there
        padding counts as its label, as in the original), in nats.
    """
    return label_sums(hidden, embedding, *_labels(tokens, mask))


def label_sums(
    hidden: Float[Array, "*places width"],
    embedding: Float[Array, "vocab width"],
    labels: Int[Array, "*places"],
    real: Bool[Array, "*places"],
    counted: Bool[Array, "*places"] | None = None,
    smoothing: float = 0.0,
    minimised: str = "nll",
) -> Sums:
    """The same of `Labels`, without the sums over all positions where only real ones are there.

    Only the sum that is `minimised` has a gradient. It may be a third one, `smoothed`: with `smoothing`, over the real
    tokens.
    """
    weights = real if counted is None or minimised != "nll_all" else counted
    loss, nll = fused_cross_entropy(hidden, embedding, labels, weights.astype(jnp.float32), smoothing)
    sums = {"nll": jnp.sum(nll, where=real), **_counts(real, counted)}
    if counted is not None:
        sums["nll_all"] = jnp.sum(nll, where=counted)
    return sums | {minimised: loss}


def _counts(real: Bool[Array, "*places"], counted: Bool[Array, "*places"] | None) -> Sums:
    counts = {"tokens": jnp.sum(real, dtype=jnp.float32)}
    return counts if counted is None else counts | {"positions": jnp.sum(counted, dtype=jnp.float32)}


def mean_losses(sums: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The losses, in nats, from the sums of batches: each token counts alike, whatever the batches were.

    Raises:
        ValueError: when there was no token.
    """
    total: Counter[str] = Counter()
    for of_batch in sums:
        total.update({name: float(value) for name, value in of_batch.items()})
    if not total["tokens"]:
        raise ValueError("no captions to compute a loss on")
    losses = {"loss": total["nll"] / total["tokens"]}
    return losses | ({"loss_all_positions": total["nll_all"] / total["positions"]} if total["positions"] else {})
