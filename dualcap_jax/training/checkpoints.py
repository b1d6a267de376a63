"""Checkpoints of a run: `checkpoints/latest` to resume from, `checkpoints/best` to use."""

import logging
from pathlib import Path
from typing import Any, Literal

import grain
import grain.checkpoint
import jax
import orbax.checkpoint as ocp

from dualcap_jax.errors import UserError

Which = Literal["best", "latest"]


class CheckpointError(UserError):
    """A run directory without the checkpoint that was asked for, or with one that does not fit."""


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


class Checkpoints:
    """Writes and restores a run's checkpoints, asynchronously; each is whole or not there.

    `latest` holds model, optimizer and the state of the input pipeline; `best` the model alone, with its
    validation loss.
    """

    def __init__(self, workdir: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells each save in a dozen lines
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
        folder = workdir.absolute() / "checkpoints"
        self._latest = ocp.CheckpointManager(folder / "latest", options=options)
        self._best = ocp.CheckpointManager(folder / "best", options=options)

    @property
    def latest_step(self) -> int | None:
        """Step of the latest checkpoint; None where there is none."""
        return self._latest.latest_step()

    def best_loss(self) -> float:
        """Validation loss of the best checkpoint; infinite where there is none."""
        if (step := self._best.latest_step()) is None:
            return float("inf")
        restored = self._best.restore(step, args=ocp.args.Composite(scores=ocp.args.JsonRestore()))
        return restored["scores"]["loss"]

    def save(self, step: int, state: dict[str, Any], iterator: grain.DatasetIterator) -> None:
        """Save all that resuming at `step` needs, replacing the checkpoint before it."""
        if step == self._latest.latest_step():
            return
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(state["model"]),
            optimizer=ocp.args.StandardSave(state["optimizer"]),
            data=grain.checkpoint.CheckpointSave(iterator),
        )
        self._latest.save(step, args=items)

    def save_best(self, step: int, state: dict[str, Any], loss: float) -> None:
        """Save the model alone as the best so far, replacing the best before it."""
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(state["model"]),
            scores=ocp.args.JsonSave({"step": step, "loss": loss}),
        )
        self._best.save(step, args=items)

    def restore(self, state: dict[str, Any], iterator: grain.DatasetIterator) -> dict[str, Any]:
        """The latest state, in the shapes that `state` tells; sets `iterator` to where it was.

        Raises:
            CheckpointError: when it is of another network.
        """
        items = ocp.args.Composite(
            model=ocp.args.StandardRestore(_abstract(state["model"])),
            optimizer=ocp.args.StandardRestore(_abstract(state["optimizer"])),
            data=grain.checkpoint.CheckpointRestore(iterator),
        )
        step = self._latest.latest_step()
        _require_fit(self._latest, step, state["model"])
        restored = self._latest.restore(step, args=items)
        return {"model": restored["model"], "optimizer": restored["optimizer"]}

    def close(self) -> None:
        """Wait until all is written."""
        self._latest.close()
        self._best.close()


def differing(model: Any, wanted: Any) -> str:
    """The first array whose shape is not the wanted one, in words; nothing where all are."""
    there, asked = (
        {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (model, wanted))
    )
    names = sorted(name for name in there.keys() | asked.keys() if there.get(name) != asked.get(name))
    return f"{names[0]} is {there.get(names[0], 'not there')}, wanted {asked.get(names[0], 'none')}" if names else ""


def _require_fit(manager: ocp.CheckpointManager, step: int | None, model: Any) -> None:
    """Raise `CheckpointError` for a checkpoint of another network, before orbax would fail half-way."""
    with ocp.StandardCheckpointer() as reader:
        metadata = reader.metadata(manager.directory / str(step) / "model")
    if told := differing(metadata.item_metadata.tree, model):
        raise CheckpointError(
            f"{manager.directory}: the checkpoint of step {step} does not fit the network of config.json; was it "
            f"written by another version? ({told})"
        )


def restore_model(workdir: Path, model: dict[str, Any], which: Which) -> tuple[dict[str, Any], int]:
    """The model of a checkpoint and its step.

    Args:
        workdir: a run directory.
        model: params and batch_stats (arrays or their shapes) as the checkpoint must hold.
        which: "best" falls back on the latest where no validation has been done yet.

    Raises:
        CheckpointError: when the run has no checkpoint, or one of another network.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    for name in ("best", "latest") if which == "best" else ("latest",):
        folder = workdir.absolute() / "checkpoints" / name
        if not folder.is_dir():
            continue
        with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
            if (step := manager.latest_step()) is not None:
                items = ocp.args.Composite(model=ocp.args.StandardRestore(_abstract(model)))
                _require_fit(manager, step, model)
                return manager.restore(step, args=items)["model"], step
    raise CheckpointError(f"{workdir}: has no {which} checkpoint (training has not saved one yet)")
