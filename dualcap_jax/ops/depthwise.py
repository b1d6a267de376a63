"""Depthwise convolution that is fast on CPU too.

XLA's grouped convolution runs 20 to 60 times slower on CPU than it could. There the convolution is a sum of k * k
shifted products, and so is its gradient by the image; its gradient by the kernel is one reduction with k * k operands.
Other devices keep the grouped convolution.
"""

from collections.abc import Iterator
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from dualcap_jax.ops.dense import PRODUCT

Padding = tuple[int, int]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, Padding]:
    """TensorFlow's SAME: the output size, and the zeros before and after (one more after, where they are odd)."""
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel - size, 0)
    return output, (total // 2, total - total // 2)


def depthwise_conv(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k 1 channels"],
    stride: int,
) -> Float[Array, "batch out_height out_width channels"]:
    """Each channel convolved with its own k x k kernel, padded as TensorFlow's SAME.

    Args:
        x: of any float dtype, which is the result's.
        kernel: of the same dtype.
        stride: in both directions.
    """
    convolved = lax.platform_dependent(
        x, kernel, cpu=partial(shifted_conv, stride=stride), default=partial(grouped_conv, stride=stride)
    )
    return checkpoint_name(convolved, PRODUCT)


def grouped_conv(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "k k 1 channels"], stride: int
) -> Float[Array, "batch out_height out_width channels"]:
    """The same as XLA's grouped convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _taps(padded: Array, k: int, stride: int, height: int, width: int) -> Iterator[tuple[int, int, Array]]:
    """Kernel position by kernel position, what it is multiplied with: [batch, height, width, channels]."""
    batch, _, _, channels = padded.shape
    for i in range(k):
        for j in range(k):
            end = (batch, i + (height - 1) * stride + 1, j + (width - 1) * stride + 1, channels)
            yield i, j, lax.slice(padded, (0, i, j, 0), end, (1, stride, stride, 1))


def _pad(x: Array, k: int, stride: int) -> tuple[Array, int, int]:
    """`x` with its SAME padding, and the output's height and width."""
    (height, rows), (width, columns) = (same_padding(size, k, stride) for size in x.shape[1:3])
    # The barrier keeps XLA from recomputing the padding in each of the k * k products.
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), rows, columns, (0, 0))))
    return padded, height, width


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted_conv(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "k k 1 channels"], stride: int
) -> Float[Array, "batch out_height out_width channels"]:
    """The same as a sum of shifted products."""
    k = kernel.shape[0]
    padded, height, width = _pad(x, k, stride)
    return reduce(add, (tap * kernel[i, j, 0] for i, j, tap in _taps(padded, k, stride, height, width)))


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return shifted_conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    k = kernel.shape[0]
    padded, height, width = _pad(x, k, stride)

    # By the kernel: one pass over x and dy for all k * k sums, in float32.
    products = [(tap * dy).astype(jnp.float32) for _, _, tap in _taps(padded, k, stride, height, width)]
    zeros = (jnp.float32(0),) * len(products)

    def add_each(sums: tuple[Array, ...], values: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(map(add, sums, values))

    # Along the rows first: what is left shares out over threads.
    rows = lax.optimization_barrier(lax.reduce(tuple(products), zeros, add_each, (2,)))
    d_kernel = jnp.stack([row.sum((0, 1)) for row in rows]).reshape(k, k, 1, -1)

    # By x: dy with zeros between (stride) and around, correlated with the flipped kernel.
    def around(size: int, output: int) -> tuple[int, int, int]:
        before = k - 1 - same_padding(size, k, stride)[1][0]
        return before, size + k - 1 - before - ((output - 1) * stride + 1), stride - 1

    config = ((0, 0, 0), around(x.shape[1], height), around(x.shape[2], width), (0, 0, 0))
    dilated = lax.optimization_barrier(lax.pad(dy, jnp.zeros((), dy.dtype), config))
    taps = _taps(dilated, k, 1, *x.shape[1:3])
    dx = reduce(add, (tap * kernel[k - 1 - i, k - 1 - j, 0] for i, j, tap in taps))
    return dx, d_kernel.astype(kernel.dtype)


shifted_conv.defvjp(_forward, _backward)
