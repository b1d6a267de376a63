"""Adam with a schedule, and learning rates of their own for encoder, language model and merger."""

from operator import mul
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dualcap_jax.training.config import TrainingConfig


def learning_rate(config: TrainingConfig) -> optax.Schedule:
    """The learning rate at each step, before the factors of the parts."""
    peak, fall = config.learning_rate, max(1, config.steps - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, fall),
        "cosine": optax.cosine_decay_schedule(peak, fall),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    # The first step takes 1 / warmup_steps of the peak, not 0.
    rise = optax.linear_schedule(peak / config.warmup_steps, peak, max(1, config.warmup_steps - 1))
    return optax.join_schedules([rise, after], [config.warmup_steps])


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipping, Adam (epsilon 1e-8, betas 0.9 and `adam_b2`), decay, schedule, factors of the parts.

    Its trees are dicts whose top-level keys name the parts: "encoder", "language", "merger".
    """

    def scale_parts(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        return {
            part: jax.tree.map(
                mul, tree, layer_factors(tree, config.layer_decay, getattr(config, f"{part}_learning_rate"))
            )
            for part, tree in updates.items()
        }

    def is_kernel(params: optax.Params) -> optax.Params:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(b2=config.adam_b2),
        optax.add_decayed_weights(config.weight_decay, is_kernel) if config.weight_decay else optax.identity(),
        optax.scale_by_learning_rate(learning_rate(config)),
        optax.stateless(scale_parts),
    )


def layer_factors(params: optax.Params, decay: float, highest: float = 1.0) -> optax.Params:
    """Factors on the learning rate of each array of a part, layer by layer (BEiT, Bao et al. 2021).

    Args:
        params: of the part, those that are trained. Where it has `blocks`, these are layers, one above the other, the
            last of them the highest; below them are embeddings and stem; above them all else.
        decay: from each layer to the one below it.
        highest: factor of what is above.
    """
    blocks = 1 + max(params["blocks"]) if "blocks" in params else 0

    def factor(path: tuple[Any, ...], leaf: jax.Array) -> float:
        name = path[0].key
        below = name.startswith("stem") or name.endswith("_embedding")
        layer = 0 if below else 1 + path[1].key if name == "blocks" else blocks + 1
        return highest * decay ** (blocks + 1 - layer)

    return jax.tree_util.tree_map_with_path(factor, params)


LossScale = dict[str, jax.Array]
"""Dynamic loss scaling of float16: `scale`, and `good`, the finite steps since it last changed."""

GROWTH_INTERVAL = 2000


def init_loss_scale(dtype: str) -> LossScale:
    """2**15 for float16, as common trainers start; 1 and never changed for the other kinds."""
    return {"scale": jnp.float32(2**15 if dtype == "float16" else 1), "good": jnp.int32(0)}


def update_loss_scale(loss_scale: LossScale, finite: jax.Array) -> LossScale:
    """Halve after an overflow (not below 1); double after 2000 finite steps in a row."""
    scale, good = loss_scale["scale"], loss_scale["good"] + 1
    grown = good >= GROWTH_INTERVAL
    return {
        "scale": jnp.where(finite, jnp.where(grown, scale * 2, scale), jnp.maximum(scale / 2, 1)),
        "good": jnp.where(finite & ~grown, good, 0),
    }
