"""What a run carries from step to step, and where its weights come from."""

from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dualcap_jax.errors import ConfigError
from dualcap_jax.models import variables
from dualcap_jax.models.variables import NetworkConfig, Variables
from dualcap_jax.pretrained.load import load_pretrained
from dualcap_jax.training.checkpoints import Checkpoints
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.freezing import joined, partition
from dualcap_jax.training.optimizer import init_loss_scale, make_optimizer
from dualcap_jax.training.restoring import differing
from dualcap_jax.training.sharding import abstract, keep_placed, place

State = dict[str, Any]
"""`model` (`Variables`, as it is validated, saved and used) and `optimizer` (step: int32 [], optax: its state for the
trained parts, loss_scale; where `model` is an average also `params`: the trained parts that the steps change)."""


InitFrom = Callable[[], tuple[Variables, list[str]]]
"""Gives the variables of another run, or some of them beside others, and tells what was done, in sentences."""


def stepped_model(state: State) -> Variables:
    """The model that the next step changes: not the average of those before, where one is kept."""
    model = state["model"]
    return model | {"params": joined(model["params"], state["optimizer"].get("params", {}))}


def init_state(model: Variables, training: TrainingConfig, dtype: str, mesh: Mesh | None = None) -> State:
    """The state before the first step.

    Args:
        model: the network's variables.
        training: how it is trained.
        dtype: of the computation.
        mesh: on which the model lies, and the rest will.
    """
    trained, _ = partition(model, training)

    def init(trained: dict[str, Any]) -> dict[str, Any]:
        optimizer = {
            "step": jnp.int32(0),
            "optax": make_optimizer(training).init(trained),
            "loss_scale": init_loss_scale(dtype),
        }
        if training.average:
            optimizer["params"] = jax.tree.map(jnp.copy, trained)  # both are donated
        return keep_placed(mesh, optimizer)

    return {"model": model, "optimizer": jax.jit(init)(trained)}  # one compilation for its hundred arrays


def shapes(config: NetworkConfig, training: TrainingConfig) -> State:
    """Shapes and dtypes of a run's state."""
    return jax.eval_shape(lambda model: init_state(model, training, config.dtype), variables.shapes(config))


def refuse_other_network(model: Variables, config: NetworkConfig) -> None:
    """Before anything is written, see whether a run can start from another one's model.

    Raises:
        ConfigError: when that is of another network.
    """
    if told := differing(model, variables.shapes(config)):
        raise ConfigError(f"--init-from: that run's network is another than this experiment's: {told}")


def first_state(
    config: NetworkConfig,
    training: TrainingConfig,
    checkpoints: Checkpoints,
    batches: grain.DatasetIterator,
    mesh: Mesh,
    init_from: InitFrom | None = None,
) -> tuple[State, list[str]]:
    """The state to begin with. Its weights are the first of these that there are:

    1. the run's own latest checkpoint, with optimizer and the place in the data;
    2. another run's model, or its encoder, a detector's, beside 3 and 4;
    3. published weights, for each part that the config names some for;
    4. random ones.

    Args:
        config: the network; its vocabulary is the tokenizer's.
        training: how it is trained.
        checkpoints: the run's.
        batches: set to where the checkpoint was.
        mesh: on which the state is laid out.
        init_from: called when it is needed.

    Returns:
        The state, and what was done, in sentences.

    Raises:
        CheckpointError: when the checkpoint is of another network.
        PretrainedError: when published weights cannot be had, read or fitted.
    """
    if checkpoints.latest_step is not None:
        return checkpoints.restore(abstract(mesh, shapes(config, training)), batches), []
    model, notes = init_from() if init_from else load_pretrained(config, training.seed)
    return init_state(place(mesh, model), training, config.dtype, mesh), notes
