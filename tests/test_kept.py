"""What an earlier process traced is read, and made anew where it can't be what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax import ExperimentConfig, kept
from dualcap_jax.models import variables


@pytest.fixture(autouse=True)
def folder(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "traces"
    jax.config.update("jax_compilation_cache_dir", before)


def counted():
    """A function, and how often it was traced."""
    traces = []

    def function(x):
        traces.append(x)
        return {"twice": [2 * x["given"]]}

    return function, traces


GIVEN = {"given": np.arange(3.0, dtype=np.float32)}


def call(function, about="about", given=GIVEN):
    """As a process of its own would, in which JAX knows no trace of the function yet."""
    jax.clear_caches()
    return np.asarray(kept.traced(function, about, given)(given)["twice"][0])


def test_what_was_traced_once_is_not_traced_again():
    function, traces = counted()
    for _ in range(3):
        np.testing.assert_array_equal(call(function), [0, 2, 4])
    assert len(traces) == 1


def test_it_hangs_on_settings_source_shapes_and_dtypes(monkeypatch):
    function, traces = counted()
    call(function)
    for about, given in [
        ("other", GIVEN),
        ("about", {"given": np.arange(4.0, dtype=np.float32)}),
        ("about", {"given": np.arange(3)}),
    ]:
        before = len(traces)
        np.testing.assert_array_equal(call(function, about, given), 2 * given["given"])
        assert len(traces) > before
    before = len(traces)
    monkeypatch.setattr(kept, "_source", lambda: "another version")
    call(function)
    assert len(traces) > before
    before = len(traces)
    jax.config.update("jax_default_matmul_precision", "float32")
    try:
        call(function)
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert len(traces) > before


def test_a_file_that_is_broken_is_made_anew(folder):
    function, traces = counted()
    call(function)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    np.testing.assert_array_equal(call(function), [0, 2, 4])
    assert len(traces) == 2
    call(function)
    assert len(traces) == 2


def test_without_a_cache_nothing_is_kept(folder):
    function, _ = counted()
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        np.testing.assert_array_equal(call(function), [0, 2, 4])
        assert kept.computed("number", 1, lambda: 5) == 5
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not folder.exists()


def test_a_folder_that_can_not_be_written_is_no_fault(folder):
    folder.write_text("a file")
    function, _ = counted()
    np.testing.assert_array_equal(call(function), [0, 2, 4])
    assert kept.computed("number", 1, lambda: 5) == 5


def test_no_more_is_kept_than_so_many(folder, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 3)
    for number in range(5):
        assert kept.computed("number", number, lambda number=number: number) == number
    assert len(list(folder.iterdir())) == 3


def test_shapes_that_were_kept_are_those_of_the_network(monkeypatch):
    config = ExperimentConfig().model
    expected = jax.eval_shape(lambda: variables._init(config, jax.random.key(0)))
    first = variables.shapes(config)

    def refuse(_):
        raise AssertionError("was built again")

    monkeypatch.setattr(variables, "_abstract", refuse)
    for found in (first, variables.shapes(config)):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(found)] == [
            (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(expected)
        ]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(first))
