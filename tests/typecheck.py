"""What checks the package's annotations, jaxtyping's shapes among them, as the tests run."""

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype

jaxtyping.Array = jax.Array | np.ndarray  # JAX takes numpy's arrays wherever it takes its own

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function):
    """Configurations check themselves: their own errors are what users read."""
    return function if function.__qualname__.endswith("Config.__init__") else _check(function)
