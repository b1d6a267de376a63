"""What checks the package's annotations, jaxtyping's shapes among them, as the tests run."""

from typing import Self

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype

jaxtyping.Array = jax.Array | np.ndarray  # JAX takes numpy's arrays wherever it takes its own

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


CHECK_THEMSELVES = ("Config.__init__", *(f"Captioner.{name}" for name in ("__call__", "load", "prepare", "explain")))
"""What users call with what they have: its own errors are what they read."""


def check(function):
    """Check a function's calls."""
    itself = function.__qualname__.endswith(CHECK_THEMSELVES) or function.__annotations__.get("return") is Self
    return function if itself else _check(function)
