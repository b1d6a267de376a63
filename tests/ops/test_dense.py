import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax.ops.dense import dense_rows


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 24, 64, 65])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_few_rows_times_a_kernel_are_its_product(rows, dtype):
    rng = np.random.default_rng(rows)
    x, kernel = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((rows, 96), (50, 96)))
    exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64).T
    product = jax.jit(dense_rows, static_argnums=(2, 3))(x, kernel, jnp.float32, 64)
    assert product.dtype == jnp.float32
    np.testing.assert_allclose(product, exact, rtol=1e-4, atol=1e-4)
    assert dense_rows(x, kernel, dtype).dtype == dtype
