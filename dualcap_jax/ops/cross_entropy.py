"""Cross entropy with the output layer in one function, which never holds the logits of all places at once.

A chunk of places at a time, the logits are computed, and from them the losses and, where they are asked for, already
the gradients: the loss is one sum, so that in the backward pass these need but be multiplied by a number. Of a
vocabulary of 50,257 the logits of a thousand places take 200 MB, the gradient by the embedding 154 whatever the batch.

A chunk takes some places of every row. So a batch whose rows are shared out over devices stays where it is: chunks of
rows would lie on one device each, and every device would have to compute all of them. Chunks of the vocabulary would
also do, and add up the gradient by the embedding over devices once instead of chunk by chunk, but need the logits
computed twice.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

MOST = 2**25
"""Logits that are held at a time: 128 MiB."""


def fused_cross_entropy(
    hidden: Float[Array, "rows *places width"],
    embedding: Float[Array, "vocab width"],
    labels: Int[Array, "rows *places"],
    weights: Float[Array, "rows *places"],
    smoothing: float = 0.0,
    most: int = MOST,
) -> tuple[Float[Array, ""], Float[Array, "rows *places"]]:
    """The weighted sum of the cross entropy of each place, in nats, and without a gradient that of each place.

    Args:
        hidden: its dtype is that of the products; they are summed in float32, as all else.
        embedding: of the tokens; a logit is its product with a hidden state. In float32, as its gradient.
        labels: the token to predict at each place.
        weights: of the places; have no gradient.
        smoothing: the share of each label that goes to all tokens of the vocabulary alike (Szegedy et al. 2016), in
            the sum; the cross entropy of each place is without.
        most: logits to hold at a time, on each device.
    """
    run = partial(_in_chunks, smoothing, most)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1 and len(labels) % mesh.size == 0:
        shared = PartitionSpec(mesh.axis_names)
        inputs = shared, PartitionSpec(), shared, shared
        run = jax.shard_map(run, in_specs=inputs, out_specs=(shared, shared), check_vma=False)
    totals, nll = run(hidden, embedding, labels, weights)
    return totals.sum(), nll


def _in_chunks(
    smoothing: float, most: int, hidden: Array, embedding: Array, labels: Array, weights: Array
) -> tuple[Array, Array]:
    """What one device computes; the sum as [1]."""
    shape, rows, places = labels.shape, len(labels), labels[0].size
    count = -(-places // max(most // (rows * len(embedding)), 1))
    size = -(-places // count)

    def cut(x: Array) -> Array:
        """[rows, *places, ...] -> [count, rows, size, ...]"""
        x = x.reshape(rows, places, *x.shape[len(shape) :])
        x = jnp.pad(x, ((0, 0), (0, count * size - places), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(rows, count, size, *x.shape[2:]).swapaxes(0, 1)

    # Gradients pass through the cast last: a loss scale multiplies them before they become float16.
    chunks = cut(hidden.astype(jnp.float32)), cut(labels), cut(weights.astype(jnp.float32))
    total, nll = _sum(smoothing, hidden.dtype, embedding, *chunks)
    return total[None], nll.swapaxes(0, 1).reshape(rows, -1)[:, :places].reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(
    smoothing: float, dtype: DTypeLike, embedding: Array, hidden: Array, labels: Array, weights: Array
) -> tuple[Array, Array]:
    kernel = embedding.astype(dtype)

    def of_chunk(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        hidden, labels, weights = chunk
        loss, nll, *_ = _losses(smoothing, hidden.astype(dtype), kernel, labels, weights)
        return total + loss, nll

    return lax.scan(of_chunk, jnp.float32(0), (hidden, labels, weights))


def _losses(
    smoothing: float, hidden: Array, kernel: Array, labels: Array, weights: Array
) -> tuple[Array, Array, Array, Array]:
    """Of a chunk: the weighted sum, the cross entropy of each place, the logits, and the logarithms of their sums."""
    logits = jnp.einsum("rpw,vw->rpv", hidden, kernel, preferred_element_type=jnp.float32)
    log_total = jax.nn.logsumexp(logits, -1, keepdims=True)
    nll = (log_total - jnp.take_along_axis(logits, labels[..., None], -1))[..., 0]
    loss = nll
    if smoothing:
        loss = (1 - smoothing) * nll + smoothing * (log_total[..., 0] - logits.mean(-1))
    return jnp.sum(weights * loss, where=weights != 0), nll, logits, log_total


Gradients = tuple[Array, Array]
"""Of the sum, by embedding and by hidden states, float32."""


def _forward(
    smoothing: float, dtype: DTypeLike, embedding: Array, hidden: Array, labels: Array, weights: Array
) -> tuple[tuple[Array, Array], Gradients]:
    kernel, vocab = embedding.astype(dtype), len(embedding)
    # Gradients by logits begin at 1 / vocab and less: float16 holds them where the largest weight is far above 1.
    largest = jnp.abs(weights).max()
    unit = jnp.where(largest > 0, largest, 1) / 2**14

    def of_chunk(
        carry: tuple[Array, Array], chunk: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (total, d_embedding), (hidden, labels, weights) = carry, chunk
        hidden = hidden.astype(dtype)
        loss, nll, logits, log_total = _losses(smoothing, hidden, kernel, labels, weights)
        is_label = labels[..., None] == jnp.arange(vocab)
        d_logits = jnp.exp(logits - log_total) - smoothing / vocab - jnp.where(is_label, 1 - smoothing, 0)
        d_logits = (d_logits * (weights / unit)[..., None]).astype(dtype)
        d_hidden = jnp.einsum("rpv,vw->rpw", d_logits, kernel, preferred_element_type=jnp.float32)
        d_kernel = jnp.einsum("rpv,rpw->vw", d_logits, hidden, preferred_element_type=jnp.float32)
        return (total + loss, d_embedding + unit * d_kernel), (nll, unit * d_hidden)

    start = jnp.float32(0), jnp.zeros(embedding.shape, jnp.float32)
    (total, d_embedding), (nll, d_hidden) = lax.scan(of_chunk, start, (hidden, labels, weights))
    return (total, nll), (d_embedding, d_hidden)


def _backward(
    smoothing: float, dtype: DTypeLike, gradients: Gradients, cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None, None]:
    by_embedding, by_hidden = gradients
    return cotangents[0] * by_embedding, cotangents[0] * by_hidden, None, None


_sum.defvjp(_forward, _backward)
