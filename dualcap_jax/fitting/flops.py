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
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (axes, _), _ = params["dimension_numbers"]
        return 2 * prod(_shape(equation.outvars[0])) * prod(_shape(equation.invars[0])[axis] for axis in axes)
    if name == "conv_general_dilated":
        kernel, out_axis = _shape(equation.invars[1]), params["dimension_numbers"].rhs_spec[0]
        of_result = prod(kernel) // kernel[out_axis]
        return 2 * prod(_shape(equation.outvars[0])) * of_result // prod(params["lhs_dilation"])
    if name == "cond":
        return max(map(flops, params["branches"]))
    return (params["length"] if name == "scan" else 1) * sum(map(flops, _inner(params)))


def _shape(value: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = value.aval.shape
    return shape


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The functions that an operation calls."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, Jaxpr | ClosedJaxpr):
                yield each
