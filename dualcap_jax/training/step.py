"""The training and evaluation steps: pure functions over nested dicts of arrays."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.stages import Wrapped as JitWrapped
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.models.dual import DualCaptioner, ModelConfig
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.optimizer import init_loss_scale, make_optimizer, update_loss_scale

State = dict[str, Any]
"""`model` (params, batch_stats: nested dicts of float32 arrays) and `optimizer` (step: int32 [],
optax: its state for the trained parts, loss_scale)."""

Batch = dict[str, Any]
"""image uint8 [batch, size, size, 3], tokens int32 and mask bool [batch, captions, length],
image_id int64 [batch]."""


def graph(config: ModelConfig) -> nnx.GraphDef:
    """The static half of the network; `nnx.merge(graph, params, batch_stats, copy=True)` gives it back."""
    abstract = nnx.eval_shape(lambda: DualCaptioner(config, rngs=nnx.Rngs(0)))
    return nnx.split(abstract, nnx.Param, nnx.BatchStat)[0]


def init_model(config: ModelConfig, seed: int) -> dict[str, Any]:
    """Initial params and batch_stats, as float32 nested dicts."""

    # It runs once: to compile it in half the time matters more than how fast it is.
    init = jax.jit(partial(_init, config), compiler_options={"xla_backend_optimization_level": 0})
    return init(jax.random.key(seed))


def model_shapes(config: ModelConfig) -> dict[str, Any]:
    """Shapes and dtypes of what `init_model` returns."""
    return jax.eval_shape(partial(_init, config), jax.random.key(0))


def _init(config, key):
    model = DualCaptioner(config, rngs=nnx.Rngs(key))
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    return {name: nnx.to_pure_dict(nnx.state(model, kind)) for name, kind in kinds.items()}


def init_state(config: ModelConfig, training: TrainingConfig) -> State:
    """The state before the first step."""
    model = init_model(config, training.seed)
    trained, _ = _partition(model["params"], training.freeze)
    return {
        "model": model,
        "optimizer": {
            "step": jnp.int32(0),
            "optax": make_optimizer(training).init(trained),
            "loss_scale": init_loss_scale(config.dtype),
        },
    }


def _partition(params, freeze):
    """What is trained of the parameters, and what is not."""
    trained = {part: tree for part, tree in params.items() if part not in freeze}
    return trained, {part: params[part] for part in freeze}


def caption_losses(
    logits: Float[Array, "batch captions positions vocab"],
    labels: Int[Array, "batch captions positions"],
    mask: Bool[Array, "batch captions positions+1"],
) -> dict[str, Float[Array, ""]]:
    """Sums from which both losses are made.

    Args:
        logits: float32, for the tokens after the first.
        labels: those tokens.
        mask: True on real tokens, the first one's column included.

    Returns:
        `nll` over the `tokens` real tokens, and `nll_all` over the `positions` of captions that exist (there
        padding counts as its label, as in the original), in nats.
    """
    picked = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    nll = jax.nn.logsumexp(logits, -1) - picked
    real = mask[..., 1:]
    exists = jnp.broadcast_to(mask[..., :1], real.shape)
    return {
        "nll": jnp.sum(nll, where=real),
        "tokens": jnp.sum(real, dtype=jnp.float32),
        "nll_all": jnp.sum(nll, where=exists),
        "positions": jnp.sum(exists, dtype=jnp.float32),
    }


def _losses_of(model, batch: Batch, **kwargs) -> dict[str, Array]:
    tokens, mask = batch["tokens"], batch["mask"]
    # The last token predicts nothing.
    logits = model(batch["image"], tokens[..., :-1], mask[..., :-1], **kwargs)
    return caption_losses(logits, tokens[..., 1:], mask)


def make_train_step(config: ModelConfig, training: TrainingConfig) -> JitWrapped:
    """The jitted training step; its state is donated.

    The step returns the new state and `loss` (what is minimised), `grad_norm` (before clipping) and `finite`.
    Where loss or gradients are not finite, parameters, statistics and optimizer stay as they were; under
    float16 the loss scale falls.
    """
    graphdef, optimizer = graph(config), make_optimizer(training)
    numerator, denominator = ("nll", "tokens") if training.loss == "real_tokens" else ("nll_all", "positions")

    def loss_and_grads(model, batch, key, scale, count):
        """Of one part of a batch whose parts hold `count` tokens altogether."""
        trained, frozen = _partition(model["params"], training.freeze)

        def loss_fn(trained):
            network = nnx.merge(graphdef, trained | frozen, model["batch_stats"], copy=True)
            sums = _losses_of(network, batch, train=True, key=key, frozen=training.freeze)
            batch_stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
            loss = sums[numerator] / count
            return loss * scale, (loss, batch_stats)

        (_, (loss, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        return loss, grads, batch_stats

    def accumulated(model, batch, key, scale, count):
        """The same over `accumulate` parts, one after the other."""
        parts = training.accumulate
        # [batch, ...] -> [parts, batch // parts, ...]
        batch = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

        def body(carry, part):
            total, grads, batch_stats = carry
            index, part_batch = part
            loss, part_grads, batch_stats = loss_and_grads(
                model | {"batch_stats": batch_stats}, part_batch, jax.random.fold_in(key, index), scale, count
            )
            return (total + loss, jax.tree.map(jnp.add, grads, part_grads), batch_stats), None

        zeros = jax.tree.map(jnp.zeros_like, _partition(model["params"], training.freeze)[0])
        carry = jnp.float32(0), zeros, model["batch_stats"]
        return jax.lax.scan(body, carry, (jnp.arange(parts), batch))[0]

    def step(state: State, batch: Batch):
        batch = {name: batch[name] for name in ("image", "tokens", "mask")}
        model, inner = state["model"], state["optimizer"]
        key = jax.random.fold_in(jax.random.key(training.seed + 1), inner["step"])
        scale = inner["loss_scale"]["scale"] if config.dtype == "float16" else 1.0  # a division that XLA drops
        mask = batch["mask"]
        counts = {"tokens": jnp.sum(mask[..., 1:]), "positions": jnp.sum(mask[..., 0]) * (mask.shape[-1] - 1)}
        count = jnp.maximum(counts[denominator], 1).astype(jnp.float32)

        compute = loss_and_grads if training.accumulate == 1 else accumulated
        loss, grads, batch_stats = compute(model, batch, key, scale, count)
        grads = jax.tree.map(lambda g: g / scale, grads)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)

        trained, frozen = _partition(model["params"], training.freeze)
        updates, optax_state = optimizer.update(grads, inner["optax"], trained)
        new = optax.apply_updates(trained, updates), optax_state, batch_stats
        old = trained, inner["optax"], model["batch_stats"]
        params, optax_state, batch_stats = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        loss_scale = inner["loss_scale"]
        if config.dtype == "float16":
            loss_scale = update_loss_scale(loss_scale, finite)
        state = {
            "model": {"params": params | frozen, "batch_stats": batch_stats},
            "optimizer": {"step": inner["step"] + 1, "optax": optax_state, "loss_scale": loss_scale},
        }
        return state, {"loss": loss, "grad_norm": norm, "finite": finite}

    return jax.jit(step, donate_argnums=0)


def make_eval_step(config: ModelConfig) -> Callable[[dict[str, Any], Batch], dict[str, Array]]:
    """The jitted evaluation step: `caption_losses` of one batch."""
    graphdef = graph(config)

    @jax.jit
    def step(model, batch):
        network = nnx.merge(graphdef, model["params"], model["batch_stats"], copy=True)
        return _losses_of(network, {name: batch[name] for name in ("image", "tokens", "mask")})

    return step


def mean_losses(sums: Mapping[str, float]) -> dict[str, float]:
    """Both losses, in nats, from summed `caption_losses`: each token counts alike, whatever the batches were.

    Raises:
        ValueError: when there was no token.
    """
    if not sums["tokens"]:
        raise ValueError("no captions to compute a loss on")
    return {
        "loss": sums["nll"] / sums["tokens"],
        "loss_all_positions": sums["nll_all"] / sums["positions"],
    }
