"""How many floating-point operations a traced function takes: those of its products and convolutions."""

from collections.abc import Iterator
from math import prod
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Of one call, a multiplication and an addition for each pair of numbers; all that is not such a sum is left out.

    A scan counts as often as it runs, a while loop once, and of a condition's branches the dearest.
    """
    return sum(map(_of, getattr(jaxpr, "jaxpr", jaxpr).eqns))


def _of(equation: JaxprEqn) -> int:
    name, params, arguments = equation.primitive.name, equation.params, [each.aval for each in equation.invars]
    if name == "dot_general":
        (axes, _), _ = params["dimension_numbers"]
        return 2 * prod(equation.outvars[0].aval.shape) * prod(arguments[0].shape[axis] for axis in axes)
    if name == "conv_general_dilated":
        kernel, out_axis = arguments[1].shape, params["dimension_numbers"].rhs_spec[0]
        inner = prod(kernel) // kernel[out_axis]
        return 2 * prod(equation.outvars[0].aval.shape) * inner // prod(params["lhs_dilation"])
    if name == "cond":
        return max(map(flops, params["branches"]))
    return (
        params.get("length", 1) * sum(map(flops, _inner(params))) if name == "scan" else sum(map(flops, _inner(params)))
    )


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The functions that an operation calls."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, Jaxpr | ClosedJaxpr):
                yield each
