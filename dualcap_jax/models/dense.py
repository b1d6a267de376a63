"""A matrix product whose gradient by the kernel suits XLA's CPU compiler too."""

from functools import partial

import jax
from jax import lax
from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dense(
    x: Float[Array, "... inputs"], kernel: Float[Array, "rows columns"], axis: int
) -> Float[Array, "... outputs"]:
    """`x` times a kernel stored as [inputs, outputs] (`axis` 0) or [outputs, inputs] (`axis` 1), in their dtype."""
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (axis,)), ((), ())))


def _forward(x, kernel, axis):
    return dense(x, kernel, axis), (x, kernel)


def _backward(axis, residuals, dy):
    x, kernel = residuals
    first, second = (array.reshape(-1, array.shape[-1]) for array in ((x, dy) if axis == 0 else (dy, x)))
    # On CPU the first operand of such a product is transposed in memory, which can cost more than the product itself.
    by_rows = (((0,), (0,)), ((), ()))
    if first.size <= second.size + kernel.size:
        d_kernel = lax.dot_general(first, second, by_rows)
    else:
        d_kernel = lax.dot_general(second, first, by_rows).T
    return dense(dy, kernel, 1 - axis), d_kernel


dense.defvjp(_forward, _backward)
