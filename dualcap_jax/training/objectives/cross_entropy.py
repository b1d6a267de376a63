"""Cross entropy of each caption's next token."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.models.config import Part
from dualcap_jax.models.dual import DualCaptioner
from dualcap_jax.training.objectives import Batch, Objective, Sums

_WEIGHTS = {"nll": "tokens", "nll_all": "positions"}


def cross_entropy(
    loss: Literal["real_tokens", "all_positions"] = "real_tokens", frozen: Collection[Part] = ()
) -> Objective:
    """The objective; `loss` and `frozen` as `TrainingConfig.loss` and `.freeze`."""
    minimised = {"real_tokens": "nll", "all_positions": "nll_all"}[loss]

    def weight(batch: Batch) -> Float[Array, ""]:
        return jnp.maximum(_counts(batch["mask"])[_WEIGHTS[minimised]], 1)

    return Objective(partial(caption_sums, frozen=frozen), minimised, weight)


def caption_sums(
    network: DualCaptioner, batch: Batch, key: jax.Array | None = None, frozen: Collection[Part] = ()
) -> Sums:
    """`token_sums` of a batch; with a key in training."""
    tokens, mask = batch["tokens"], batch["mask"]
    # The last token predicts nothing.
    inputs = batch["image"], tokens[..., :-1], mask[..., :-1]
    return token_sums(network(*inputs, train=key is not None, key=key, frozen=frozen), tokens, mask)


def token_sums(
    logits: Float[Array, "batch captions positions vocab"],
    tokens: Int[Array, "batch captions length"],
    mask: Bool[Array, "batch captions length"],
) -> Sums:
    """Sums from which both losses are made.

    Args:
        logits: float32, for the tokens after the first: one position fewer than tokens.
        tokens: the captions.
        mask: True on real tokens.

    Returns:
        `nll` over the `tokens` real tokens, and `nll_all` over the `positions` of captions that exist (there
        padding counts as its label, as in the original), in nats.
    """
    picked = jnp.take_along_axis(logits, tokens[..., 1:, None], -1)[..., 0]
    nll = jax.nn.logsumexp(logits, -1) - picked
    real = mask[..., 1:]
    exists = jnp.broadcast_to(mask[..., :1], real.shape)
    return {"nll": jnp.sum(nll, where=real), "nll_all": jnp.sum(nll, where=exists), **_counts(mask)}


def _counts(mask: Bool[Array, "batch captions length"]) -> Sums:
    """Real tokens after the first, and positions after the first of captions that exist."""
    exists = jnp.broadcast_to(mask[..., :1], mask[..., 1:].shape)
    return {
        "tokens": jnp.sum(mask[..., 1:], dtype=jnp.float32),
        "positions": jnp.sum(exists, dtype=jnp.float32),
    }


def mean_losses(sums: Iterable[Mapping[str, Array | float]]) -> dict[str, float]:
    """Both losses, in nats, from the sums of batches: each token counts alike, whatever the batches were.

    Raises:
        ValueError: when there was no token.
    """
    total = dict.fromkeys(("nll", "tokens", "nll_all", "positions"), 0.0)
    for of_batch in sums:
        for name in total:
            total[name] += float(of_batch[name])
    if not total["tokens"]:
        raise ValueError("no captions to compute a loss on")
    return {"loss": total["nll"] / total["tokens"], "loss_all_positions": total["nll_all"] / total["positions"]}
