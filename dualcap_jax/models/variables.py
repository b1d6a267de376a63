"""The network as a pure function: its variables are nested dicts of arrays, its graph hangs on the configuration alone.

Training, decoding and explaining all begin with `bind`. It is cheap: jitting over plain dicts costs a third of what
jitting over modules does at each call.
"""

from functools import cache
from typing import Any, overload

import jax
import jax.numpy as jnp
from flax import nnx

from dualcap_jax import kept
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.detector import Detector, DetectorConfig
from dualcap_jax.models.dual import DualCaptioner
from dualcap_jax.models.language_models import LanguageModel, LanguageModelConfig

Variables = dict[str, Any]
"""`params` and `batch_stats`: nested dicts of float32 arrays."""

_KINDS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


Network = DualCaptioner | Detector
NetworkConfig = ModelConfig | DetectorConfig


@overload
def bind(config: ModelConfig, variables: Variables) -> DualCaptioner: ...


@overload
def bind(config: DetectorConfig, variables: Variables) -> Detector: ...


def bind(config: NetworkConfig, variables: Variables) -> Network:
    """The network with these variables; what it learns of batch statistics, `batch_stats_of` tells."""
    graph, _ = _abstract(config)
    return nnx.merge(graph, *(variables[kind] for kind in _KINDS), copy=True)


@cache
def _abstract(config: NetworkConfig) -> tuple[nnx.GraphDef, Variables]:
    """The network's graph, and the shapes of its variables."""
    graph, *states = nnx.split(nnx.eval_shape(lambda: _build(config, nnx.Rngs(0))), *_KINDS.values())
    return graph, dict(zip(_KINDS, map(nnx.to_pure_dict, states), strict=True))


def _build(config: NetworkConfig, rngs: nnx.Rngs) -> Network:
    return Detector(config, rngs=rngs) if isinstance(config, DetectorConfig) else DualCaptioner(config, rngs=rngs)


def batch_stats_of(network: Network) -> dict[str, Any]:
    """The network's batch statistics as they are now."""
    return nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


def init(config: NetworkConfig, seed: int, model: Variables | None = None) -> Variables:
    """Initial variables.

    Args:
        config: the network.
        seed: of the random ones.
        model: what is there of them already; only arrays that it has but the shapes of are made. None: nothing is.
    """
    leaves, tree = jax.tree.flatten(shapes(config) if model is None else model)
    missing = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def make(key: jax.Array) -> list[jax.Array]:
        made = jax.tree.leaves(_init(config, key))
        return [made[place] for place in missing]

    # It runs once: to compile it in half the time matters more than how fast it is.
    made = jax.jit(make, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(seed))
    for place, leaf in zip(missing, made, strict=True):
        leaves[place] = leaf
    return jax.tree.unflatten(tree, map(jnp.asarray, leaves))


def shapes(config: NetworkConfig) -> Variables:
    """Shapes and dtypes of what `init` returns."""

    def leaves() -> list[tuple[list[str | int], list[int], str]]:
        with_paths = jax.tree.leaves_with_path(_abstract(config)[1])
        return [([key.key for key in path], list(leaf.shape), str(leaf.dtype)) for path, leaf in with_paths]

    tree: Variables = {}
    for (*above, last), shape, dtype in kept.computed("shapes", config, leaves):
        place = tree
        for key in above:
            place = place.setdefault(key, {})
        place[last] = jax.ShapeDtypeStruct(tuple(shape), dtype)
    return tree


def _init(config: NetworkConfig, key: jax.Array) -> Variables:
    network = _build(config, nnx.Rngs(key))
    return {name: nnx.to_pure_dict(nnx.state(network, kind)) for name, kind in _KINDS.items()}


def parameter_counts(config: NetworkConfig) -> dict[str, int]:
    """Parameters of each part."""
    return {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in shapes(config)["params"].items()}


def bind_language(config: LanguageModelConfig, dtype: str, params: dict[str, Any]) -> LanguageModel:
    """The language model alone, with these parameters."""
    return nnx.merge(_language_graph(config, dtype), params, copy=True)


@cache
def _language_graph(config: LanguageModelConfig, dtype: str) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: config.build(dtype=dtype, rngs=nnx.Rngs(0))), nnx.Param)[0]


def init_language(config: LanguageModelConfig, seed: int) -> dict[str, Any]:
    """Initial parameters of the language model alone."""

    def build(key: jax.Array) -> dict[str, Any]:
        return nnx.to_pure_dict(nnx.state(config.build(dtype="float32", rngs=nnx.Rngs(key)), nnx.Param))

    return jax.jit(build)(jax.random.key(seed))
