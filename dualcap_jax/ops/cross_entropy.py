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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

MOST = 2**25
"""Logits that are held at a time: 128 MiB."""


Teacher = tuple[Float[Array, "rows *places _teacher"], Float[Array, "vocab _teacher"]]
"""A teacher's hidden states and embedding: its logits are their products, which are not held at once either."""


def fused_cross_entropy(
    hidden: Float[Array, "rows *places width"],
    embedding: Float[Array, "vocab width"],
    labels: Int[Array, "rows *places"],
    weights: Float[Array, "rows *places"],
    smoothing: float = 0.0,
    teacher: Teacher | None = None,
    soft_share: float = 0.0,
    temperature: float = 1.0,
    most: int = MOST,
) -> tuple[Float[Array, ""], Float[Array, "rows *places"]]:
    """The weighted sum of the loss of each place, in nats, and without a gradient the cross entropy of each place.

    With a teacher the loss is (1 - soft_share) * cross entropy + soft_share * temperature**2 * KL(teacher's || own), of
    the distributions of logits / temperature: the square keeps the gradient as large as the label's (Hinton et al.
    2015).

    Args:
        hidden: its dtype is that of the products; they are summed in float32, as all else.
        embedding: of the tokens; a logit is its product with a hidden state. In float32, as its gradient.
        labels: the token to predict at each place.
        weights: of the places; have no gradient.
        smoothing: the share of each label that goes to all tokens of the vocabulary alike (Szegedy et al. 2016), in
            the sum; the cross entropy of each place is without.
        teacher: whose distributions are to be learnt too; has no gradient.
        soft_share: the share of the loss that these have.
        temperature: more than 1 makes distributions flatter.
        most: logits to hold at a time, on each device.
    """
    run = partial(_in_chunks, _Targets(smoothing, soft_share, temperature), most)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1 and len(labels) % mesh.size == 0:
        shared, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
        inputs = shared, everywhere, shared, shared, teacher and (shared, everywhere)
        run = jax.shard_map(run, in_specs=inputs, out_specs=(shared, shared), check_vma=False)
    totals, nll = run(hidden, embedding, labels, weights, teacher)
    return totals.sum(), nll


class _Targets(NamedTuple):
    """What labels and teacher are mixed by; see `fused_cross_entropy`."""

    smoothing: float
    soft_share: float
    temperature: float


def _in_chunks(
    targets: _Targets,
    most: int,
    hidden: Array,
    embedding: Array,
    labels: Array,
    weights: Array,
    teacher: tuple[Array, Array] | None,
) -> tuple[Array, Array]:
    """What one device computes; the sum as [1]."""
    shape, rows, places = labels.shape, len(labels), labels[0].size
    held = rows * len(embedding) * (2 if teacher else 1)
    count = -(-places // max(most // held, 1))
    size = -(-places // count)

    def cut(x: Array) -> Array:
        """[rows, *places, ...] -> [count, rows, size, ...]"""
        x = x.reshape(rows, places, *x.shape[len(shape) :])
        x = jnp.pad(x, ((0, 0), (0, count * size - places), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(rows, count, size, *x.shape[2:]).swapaxes(0, 1)

    # Gradients pass through the cast last: a loss scale multiplies them before they become float16.
    own = cut(hidden.astype(jnp.float32)), cut(labels), cut(weights.astype(jnp.float32))
    taught, kernel = (cut(teacher[0]), teacher[1].astype(teacher[0].dtype)) if teacher else (None, None)
    total, nll = _sum(targets, hidden.dtype, embedding, kernel, (*own, taught))
    return total[None], nll.swapaxes(0, 1).reshape(rows, -1)[:, :places].reshape(shape)


Chunk = tuple[Array, Array, Array, Array | None]
"""Of some places: hidden states, labels, weights, and the teacher's hidden states."""


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(
    targets: _Targets, dtype: DTypeLike, embedding: Array, teacher: Array | None, chunks: Chunk
) -> tuple[Array, Array]:
    kernel = embedding.astype(dtype)

    def of_chunk(total: Array, chunk: Chunk) -> tuple[Array, Array]:
        loss, nll, _ = _losses(targets, kernel, teacher, (chunk[0].astype(dtype), *chunk[1:]))
        return total + loss, nll

    return lax.scan(of_chunk, jnp.float32(0), chunks)


def _losses(targets: _Targets, kernel: Array, teacher: Array | None, chunk: Chunk) -> tuple[Array, Array, Array]:
    """Of a chunk: the weighted sum, the cross entropy of each place, and the gradient of each place's loss by its
    logits."""
    hidden, labels, weights, taught = chunk
    smoothing, soft_share, temperature = targets
    logits, vocab = _products(hidden, kernel), len(kernel)
    log_total = jax.nn.logsumexp(logits, -1, keepdims=True)
    nll = (log_total - jnp.take_along_axis(logits, labels[..., None], -1))[..., 0]
    loss = nll
    if smoothing:
        loss = (1 - smoothing) * nll + smoothing * (log_total[..., 0] - logits.mean(-1))
    is_label = labels[..., None] == jnp.arange(vocab)
    d_logits = jnp.exp(logits - log_total) - smoothing / vocab - jnp.where(is_label, 1 - smoothing, 0)
    if taught is not None and teacher is not None:
        of_teacher = _products(taught, teacher)
        wanted, own = (jax.nn.log_softmax(each / temperature) for each in (of_teacher, logits))
        divergence = jnp.sum(jnp.exp(wanted) * (wanted - own), -1)
        loss = (1 - soft_share) * loss + soft_share * temperature**2 * divergence
        d_logits = (1 - soft_share) * d_logits + soft_share * temperature * (jnp.exp(own) - jnp.exp(wanted))
    return jnp.sum(weights * loss, where=weights != 0), nll, d_logits


def _products(hidden: Array, kernel: Array) -> Array:
    return jnp.einsum("rpw,vw->rpv", hidden, kernel, preferred_element_type=jnp.float32)


Gradients = tuple[Array, Array]
"""Of the sum, by embedding and by hidden states, float32."""


def _forward(
    targets: _Targets, dtype: DTypeLike, embedding: Array, teacher: Array | None, chunks: Chunk
) -> tuple[tuple[Array, Array], Gradients]:
    kernel = embedding.astype(dtype)
    # Gradients by logits begin at 1 / vocab and less: float16 holds them where the largest weight is far above 1.
    largest = jnp.abs(chunks[2]).max()
    unit = jnp.where(largest > 0, largest, 1) / 2**14

    def of_chunk(carry: tuple[Array, Array], chunk: Chunk) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        total, d_embedding = carry
        hidden, weights = chunk[0].astype(dtype), chunk[2]
        loss, nll, d_logits = _losses(targets, kernel, teacher, (hidden, *chunk[1:]))
        d_logits = (d_logits * (weights / unit)[..., None]).astype(dtype)
        d_hidden = jnp.einsum("rpv,vw->rpw", d_logits, kernel, preferred_element_type=jnp.float32)
        d_kernel = jnp.einsum("rpv,rpw->vw", d_logits, hidden, preferred_element_type=jnp.float32)
        return (total + loss, d_embedding + unit * d_kernel), (nll, unit * d_hidden)

    start = jnp.float32(0), jnp.zeros(embedding.shape, jnp.float32)
    (total, d_embedding), (nll, d_hidden) = lax.scan(of_chunk, start, chunks)
    return (total, nll), (d_embedding, d_hidden)


def _backward(
    targets: _Targets, dtype: DTypeLike, gradients: Gradients, cotangents: tuple[Array, Array]
) -> tuple[Array, None, tuple[Array, None, None, None]]:
    by_embedding, by_hidden = gradients
    return cotangents[0] * by_embedding, None, (cotangents[0] * by_hidden, None, None, None)


_sum.defvjp(_forward, _backward)
