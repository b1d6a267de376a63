"""The network's compiled calls: encode images, search for captions. On a mesh of devices each does its share of the
images, without a word to the others."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, Key, UInt8

from dualcap_jax.decoding import Decoded, DecodingModel, Rules, beam_search, sample
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import Encoded
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables, bind


def _shared_out(mesh: Mesh | None, compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute` of variables and of arrays of a batch, which is divided among devices where they divide its size."""

    def run(variables: Variables, *batch: Any) -> Any:
        if mesh is None or len(jax.tree.leaves(batch)[0]) % mesh.size:
            return compute(variables, *batch)
        everywhere, divided = PartitionSpec(), PartitionSpec(mesh.axis_names)
        specs = everywhere, *[divided] * len(batch)
        return jax.shard_map(compute, mesh=mesh, in_specs=specs, out_specs=divided, check_vma=False)(variables, *batch)

    return run


@partial(jax.jit, static_argnames=("config", "mesh"))
def encode(
    config: ModelConfig,
    variables: Variables,
    images: UInt8[Array, "batch size size 3"] | Encoded,
    mesh: Mesh | None = None,
) -> Image:
    """What `search` needs of images: each is encoded once for all that is asked of it, if it is not already."""

    def compute(variables: Variables, images: Array | Encoded) -> Image:
        network = bind(config, variables)
        return network.look(images) if isinstance(images, Encoded) else network.encode(images)

    return _shared_out(mesh, compute)(variables, images)


@partial(jax.jit, static_argnames=("config", "rules", "mesh"))
def search(
    config: ModelConfig,
    variables: Variables,
    features: Image,
    start: Int[Array, " prompt"],
    keys: Key[Array, " batch"],
    rules: Rules,
    mesh: Mesh | None = None,
) -> Decoded:
    """Captions of encoded images, all with the same first tokens; `keys` are for drawing by chance."""

    def compute(variables: Variables, features: Image, keys: Key[Array, " batch"]) -> Decoded:
        network, settings = bind(config, variables), rules.config
        batch = len(keys)
        rows = settings.num_return_sequences if settings.do_sample else settings.num_beams
        cache = network.init_cache(batch, rows, settings.max_length)
        model = DecodingModel(network.next_logits, network.reorder_cache, cache, features)
        first = jnp.broadcast_to(start, (batch, len(start)))
        return sample(model, first, rules, keys) if settings.do_sample else beam_search(model, first, rules)

    return _shared_out(mesh, compute)(variables, features, keys)
