"""The steps of training and evaluating a language model: pure functions over nested dicts of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.stages import Wrapped as JitWrapped
from jaxtyping import Array, Float

from dualcap_jax.data.pieces import Batch
from dualcap_jax.models.language_models import LanguageModelConfig
from dualcap_jax.models.variables import bind_language
from dualcap_jax.ops.cross_entropy import fused_cross_entropy
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.optimizer import make_optimizer

Params = dict[str, Any]
"""Nested dicts of the language model's arrays, float32."""
State = dict[str, Any]
"""`params` (`Params`), `optax` (the optimizer's state) and `step` (int32 [])."""
PART = "language"
"""What the optimizer knows the parameters as."""


def init_state(params: Params, training: TrainingConfig) -> State:
    """The state before the first step."""
    return {"params": params, "optax": make_optimizer(training).init({PART: params}), "step": jnp.int32(0)}


def token_sums(
    config: LanguageModelConfig, dtype: str, params: Params, batch: Batch, key: Array | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The cross entropy of each token after the first of its row, in nats, summed; and how many there are.

    Args:
        config: the language model.
        dtype: of the computation.
        params: its parameters.
        batch: see `Batch`.
        key: for dropout; None turns it off.
    """
    tokens, mask = jnp.asarray(batch["tokens"]), jnp.asarray(batch["mask"])
    network = bind_language(config, dtype, params)
    hidden, weights = network.hidden(tokens[:, :-1], mask[:, :-1], key), mask[:, 1:].astype(jnp.float32)
    return fused_cross_entropy(hidden, network.output_embedding, tokens[:, 1:], weights)[0], weights.sum()


def make_train_step(config: LanguageModelConfig, dtype: str, training: TrainingConfig) -> JitWrapped:
    """The jitted training step, `(state, batch) -> (state, loss)`; the state that it is given is donated."""
    optimizer = make_optimizer(training)

    def step(state: State, batch: Batch) -> tuple[State, Float[Array, ""]]:
        key = jax.random.fold_in(jax.random.key(training.seed + 1), state["step"])

        def loss_fn(params: Params) -> Float[Array, ""]:
            nll, tokens = token_sums(config, dtype, params, batch, key)
            return nll / tokens

        loss, grads = jax.value_and_grad(loss_fn)(state["params"])
        params = {PART: state["params"]}
        updates, optax_state = optimizer.update({PART: grads}, state["optax"], params)
        params = optax.apply_updates(params, updates)
        return {"params": params[PART], "optax": optax_state, "step": state["step"] + 1}, loss

    return jax.jit(step, donate_argnums=0)


def make_eval_step(config: LanguageModelConfig, dtype: str) -> Callable[[Params, Batch], tuple[Array, Array]]:
    """The jitted evaluation step: `token_sums` of a batch, without dropout."""
    return jax.jit(lambda params, batch: token_sums(config, dtype, params, batch))
