"""The training and evaluation steps: pure functions over nested dicts of arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.stages import Wrapped as JitWrapped
from jaxtyping import Array

from dualcap_jax import interrupts
from dualcap_jax.models.variables import NetworkConfig, Variables, batch_stats_of, bind
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.freezing import joined, partition, unfreeze_statistics
from dualcap_jax.training.objectives import Batch, Objective, Sums
from dualcap_jax.training.optimizer import learning_rate, make_optimizer, update_loss_scale
from dualcap_jax.training.sharding import divide, keep_placed, known, whole
from dualcap_jax.training.state import State, stepped_model

Metrics = dict[str, Array]
"""Of a step: `loss` (what is minimised), `grad_norm` (before clipping), `learning_rate`; of each trained part
`grad_norm_PART`, `param_norm_PART` (after the step) and `update_norm_PART`; `finite`: whether loss and gradients are,
so that the step counts; `overflow`: whether they are not as float16's loss scale was too high, which mends itself;
of several processes `asked`: the signal by which one of them was asked to end, or 0."""

REMATERIALISING = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""XLA's compiler for CPUs otherwise drops the barriers that keep recomputation late, and then the recomputation."""


@dataclass(frozen=True)
class TrainStep:
    """A training step, `(state, batch) -> (state, metrics)`, of batches as the input pipeline makes them."""

    compiled: JitWrapped
    """The same of batches as `place` gives them; the state that it is given is donated."""
    place: Callable[[Batch], Batch]
    """What the network reads of a batch, on the devices."""

    def __call__(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """One step."""
        return self.compiled(state, self.place(batch))


def _place(mesh: Mesh | None, accumulate: int, given: Batch, batch: Batch) -> Batch:
    batch = {name: values for name, values in batch.items() if name != "image_id"}
    if mesh is not None and jax.process_count() > 1:  # how each learns that another was asked to end, at the same step
        batch["asked"] = np.full(accumulate * len(mesh.local_devices), interrupts.asked() or 0, np.int32)
    return divide(mesh, batch, accumulate) | ({"given": given} if given else {})


def make_train_step(
    config: NetworkConfig, training: TrainingConfig, objective: Objective, mesh: Mesh | None = None
) -> TrainStep:
    """The jitted training step.

    Where loss or gradients are not finite, parameters, statistics and optimizer stay as they were; under
    float16 the loss scale falls.

    Args:
        config: the network.
        training: how it is trained.
        objective: what is minimised.
        mesh: devices that a batch is divided among, and on which the state lies as `sharding.place` lays it. None: one.
    """
    optimizer, schedule, scales = make_optimizer(training), learning_rate(training), config.dtype == "float16"

    def loss_and_grads(
        model: Variables, batch: Batch, given: Batch, key: Array, scale: Array | float, weight: Array
    ) -> tuple[Array, Any, Any]:
        """Of one part of a batch whose parts weigh `weight` altogether."""
        trained, frozen = partition(model, training)

        def loss_fn(trained: Any) -> tuple[Array, tuple[Array, Any]]:
            network = bind(config, whole(mesh, model | {"params": joined(frozen, trained)}))
            unfreeze_statistics(network, config.encoder, training)
            with known(mesh):
                loss = objective.sums(network, batch | given, key)[objective.minimised] / weight
            return loss * scale, (loss, batch_stats_of(network))

        (_, (loss, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        return loss, keep_placed(mesh, grads), batch_stats

    def accumulated(
        model: Variables, batch: Batch, given: Batch, key: Array, scale: Array | float, weight: Array
    ) -> tuple[Array, Any, Any]:
        """The same over the parts of a batch, one after the other."""

        def body(carry: tuple[Array, Any, Any], part: tuple[Array, Batch]) -> tuple[tuple[Array, Any, Any], None]:
            total, grads, batch_stats = carry
            index, part_batch = part
            loss, part_grads, batch_stats = loss_and_grads(
                model | {"batch_stats": batch_stats}, part_batch, given, jax.random.fold_in(key, index), scale, weight
            )
            return (total + loss, jax.tree.map(jnp.add, grads, part_grads), batch_stats), None

        zeros = jax.tree.map(jnp.zeros_like, partition(model, training)[0])
        carry = jnp.float32(0), zeros, model["batch_stats"]
        return jax.lax.scan(body, carry, (jnp.arange(training.accumulate), batch))[0]

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        batch, averaged, inner = dict(batch), state["model"], state["optimizer"]
        asked = {"asked": batch.pop("asked").max()} if "asked" in batch else {}
        given = whole(mesh, batch.pop("given", {}))
        model = stepped_model(state)
        key = jax.random.fold_in(jax.random.key(training.seed + 1), inner["step"])
        scale = inner["loss_scale"]["scale"] if scales else 1.0  # a division that XLA drops
        compute = loss_and_grads if training.accumulate == 1 else accumulated
        loss, grads, batch_stats = compute(model, batch, given, key, scale, objective.weight(batch))
        grads = jax.tree.map(lambda g: g / scale, grads)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)

        trained, frozen = partition(model, training)
        updates, optax_state = optimizer.update(grads, inner["optax"], trained)
        new = optax.apply_updates(trained, updates), optax_state, batch_stats
        old = trained, inner["optax"], model["batch_stats"]
        params, optax_state, batch_stats = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        loss_scale = update_loss_scale(inner["loss_scale"], finite) if scales else inner["loss_scale"]
        optimizer_state = {"step": inner["step"] + 1, "optax": optax_state, "loss_scale": loss_scale}
        kept = params
        if training.average:
            optimizer_state["params"] = params
            before, _ = partition(averaged, training)
            keep = jnp.minimum(training.average, (1 + inner["step"]) / (10 + inner["step"]))
            kept = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, before, params)
        state = {"model": {"params": joined(frozen, kept), "batch_stats": batch_stats}, "optimizer": optimizer_state}
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": schedule(inner["step"]),
            "finite": finite,
            "overflow": ~finite & jnp.isfinite(loss) & scales,
            **asked,
        }
        for name, tree in {"grad": grads, "param": params, "update": updates}.items():
            metrics |= {f"{name}_norm_{part}": optax.global_norm(arrays) for part, arrays in tree.items()}
        return keep_placed(mesh, state), whole(mesh, metrics)

    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    options = REMATERIALISING if platform == "cpu" else None
    compiled = jax.jit(step, donate_argnums=0, compiler_options=options)
    return TrainStep(compiled, partial(_place, mesh, training.accumulate, objective.given))


def make_eval_step(
    config: NetworkConfig, objective: Objective, mesh: Mesh | None = None
) -> Callable[[Variables, Batch], Sums]:
    """The jitted evaluation step: the objective's sums over one batch; `mesh` as of the training step."""

    @jax.jit
    def step(model: Variables, batch: Batch) -> Sums:
        with known(mesh):
            return whole(mesh, objective.sums(bind(config, whole(mesh, model)), batch, None))

    return lambda model, batch: step(model, _place(mesh, 1, {}, batch))
