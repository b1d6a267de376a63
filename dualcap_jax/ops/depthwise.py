"""Depthwise convolution that is fast on CPU and GPU.

XLA's grouped convolution runs 20 to 60 times slower on CPU than it could. There the convolution is a sum of k * k
shifted products, and so is its gradient by the image; its gradient by the kernel is one reduction with k * k operands.
On NVIDIA GPUs the grouped convolution is cuDNN's, which is fast but for some shapes of 5 x 5 (`scripts/
benchmark_depthwise.py`, on an H200 in bfloat16: 4.5 ms where the sum takes 0.2). Other devices keep the grouped one.
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
        x,
        kernel,
        cpu=partial(shifted_conv, stride=stride),
        cuda=partial(quicker_conv, stride=stride),
        default=partial(grouped_conv, stride=stride),
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


def _taps(padded: Array, height: int, width: int, k: int, stride: int) -> Iterator[tuple[int, int, Array]]:
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
    return _sum_of(_taps(*_pad(x, k, stride), k, stride), kernel)


def _sum_of(taps: Iterator[tuple[int, int, Array]], kernel: Array) -> Array:
    """Summed in float32, and of the kernel's dtype."""
    wide = kernel.astype(jnp.float32)
    return reduce(add, (tap.astype(jnp.float32) * wide[i, j, 0] for i, j, tap in taps)).astype(kernel.dtype)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return shifted_conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return _by_image(x, kernel, stride, dy), _by_kernel(x, kernel, stride, dy)


def _by_kernel(x: Array, kernel: Array, stride: int, dy: Array) -> Array:
    """One pass over x and dy for all k * k sums, in float32."""
    k = kernel.shape[0]
    wide = dy.astype(jnp.float32)
    products = [tap.astype(jnp.float32) * wide for _, _, tap in _taps(*_pad(x, k, stride), k, stride)]
    zeros = (jnp.float32(0),) * len(products)

    def add_each(sums: tuple[Array, ...], values: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(map(add, sums, values))

    # Along the rows first: what is left shares out over threads.
    rows = lax.optimization_barrier(lax.reduce(tuple(products), zeros, add_each, (2,)))
    return jnp.stack([row.sum((0, 1)) for row in rows]).reshape(k, k, 1, -1).astype(kernel.dtype)


def _by_image(x: Array, kernel: Array, stride: int, dy: Array) -> Array:
    """The gradient with zeros between (stride) and around, correlated with the flipped kernel."""
    k = kernel.shape[0]

    def around(size: int, output: int) -> tuple[int, int, int]:
        before = k - 1 - same_padding(size, k, stride)[1][0]
        return before, size + k - 1 - before - ((output - 1) * stride + 1), stride - 1

    config = ((0, 0, 0), around(x.shape[1], dy.shape[1]), around(x.shape[2], dy.shape[2]), (0, 0, 0))
    dilated = lax.optimization_barrier(lax.pad(dy, jnp.zeros((), dy.dtype), config))
    return _sum_of(_taps(dilated, x.shape[1], x.shape[2], k, 1), kernel[::-1, ::-1])


shifted_conv.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def quicker_conv(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "k k 1 channels"], stride: int
) -> Float[Array, "batch out_height out_width channels"]:
    """The same in the way that is faster on an NVIDIA GPU, chosen by shape for the convolution and each gradient."""
    slow = kernel.shape[0] == 5 and (stride == 2 or _is_small(x))
    return (shifted_conv if slow else grouped_conv)(x, kernel, stride)


def _is_small(x: Array) -> bool:
    """Whether cuDNN is slow with 5 x 5 at stride 1."""
    return max(x.shape[1:3]) <= 16


def _quicker_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return quicker_conv(x, kernel, stride), (x, kernel)


def _quicker_backward(stride: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    by_image, by_kernel = jax.vjp(partial(grouped_conv, stride=stride), x, kernel)[1](dy)
    if kernel.shape[0] == 5 and stride == 1 and _is_small(x):
        by_image = _by_image(x, kernel, stride, dy)
    return by_image, by_kernel


quicker_conv.defvjp(_quicker_forward, _quicker_backward)
