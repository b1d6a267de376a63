"""The trained network's compiled calls: encode images, search for captions, compute losses on given ones."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt8

from dualcap_jax.decoding import Decoded, DecodingModel, Rules, beam_search, sample
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables, bind
from dualcap_jax.training.objectives import Sums
from dualcap_jax.training.objectives.cross_entropy import token_sums


@partial(jax.jit, static_argnames="config")
def encode(config: ModelConfig, variables: Variables, images: UInt8[Array, "batch size size 3"]) -> Image:
    """What the other calls need of images: each is encoded once for all that is asked of it."""
    return bind(config, variables).encode(images)


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


@partial(jax.jit, static_argnames="config")
def losses(
    config: ModelConfig,
    variables: Variables,
    features: Image,
    tokens: Int[Array, "batch captions length"],
    mask: Bool[Array, "batch captions length"],
) -> Sums:
    """`token_sums` of captions of encoded images."""
    logits = bind(config, variables).logits(features, tokens[..., :-1], mask[..., :-1])
    return token_sums(logits, tokens, mask)
