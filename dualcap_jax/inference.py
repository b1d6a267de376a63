"""The network's compiled calls: encode images, search for captions."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt8

from dualcap_jax.decoding import Decoded, DecodingModel, Rules, beam_search, sample
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import Encoded
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables, bind


@partial(jax.jit, static_argnames="config")
def encode(config: ModelConfig, variables: Variables, images: UInt8[Array, "batch size size 3"] | Encoded) -> Image:
    """What `search` needs of images: each is encoded once for all that is asked of it, if it is not already."""
    network = bind(config, variables)
    return network.look(images) if isinstance(images, Encoded) else network.encode(images)


@partial(jax.jit, static_argnames=("config", "rules"))
def search(
    config: ModelConfig,
    variables: Variables,
    features: Image,
    start: Int[Array, " prompt"],
    keys: Key[Array, " batch"],
    rules: Rules,
) -> Decoded:
    """Captions of encoded images, all with the same first tokens; `keys` are for drawing by chance."""
    network, settings = bind(config, variables), rules.config
    batch = len(keys)
    rows = settings.num_return_sequences if settings.do_sample else settings.num_beams
    cache = network.init_cache(batch, rows, settings.max_length)
    model = DecodingModel(network.next_logits, network.reorder_cache, cache, features)
    start = jnp.broadcast_to(start, (batch, len(start)))
    return sample(model, start, rules, keys) if settings.do_sample else beam_search(model, start, rules)
