"""What a run's checkpoints hold, read back: by those who use a run, beside training that may still write it."""

import errno
import logging
import os
import shlex
import textwrap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dualcap_jax.errors import DataWarning, UserError
from dualcap_jax.training.config import Which
from dualcap_jax.training.detection import DETECTOR

ATTEMPTS = 20
"""Times that a checkpoint is read anew where another takes its place meanwhile."""


class CheckpointError(UserError):
    """A run directory without the checkpoint that was asked for, or one that can't be read, used or written.

    Args:
        fact: what is wrong.
        mend: what helps.
    """

    def __init__(self, fact: str, mend: str = ""):
        super().__init__(f"{fact}; {mend}" if mend else fact)
        self.fact = fact


class Unreadable(CheckpointError):
    """A checkpoint that can't be read."""


def _abstract(tree: Any) -> Any:
    """Shapes of arrays that this process is to have on one device, whatever devices they were saved from."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree)


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in `latest` or `best`, the newest last."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())


def quieten() -> None:
    """Orbax tells a save in a dozen lines, and a failure, which we tell too, in hundreds."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def reason_of(error: BaseException) -> str:
    """What lies at the bottom of orbax's and tensorstore's account of a failure, in a line."""
    full = os.strerror(errno.ENOSPC)
    if full in str(error):
        return f"the disk is full: {full}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {textwrap.shorten(lines[0], 240, placeholder=' ...')}".removesuffix(": ")


def broken(workdir: Path, which: Which, step: int | None, error: Exception, *, resuming: bool) -> Exception:
    """What is to be told of a checkpoint that can't be read, with the one that can be taken instead."""
    if isinstance(error, CheckpointError | MemoryError | jax.errors.JaxRuntimeError):  # it may be whole
        return error
    folder = workdir / "checkpoints" / which
    message = f"{folder if step is None else folder / str(step)}: the checkpoint can't be read ({reason_of(error)})"
    other: Which = "latest" if which == "best" else "best"
    if not (steps := steps_in(workdir / "checkpoints" / other)):
        mend = "the run has no other: bring it back from a copy, or train anew"
    elif which == "best":
        away = shlex.join(["mv", str(folder), f"{folder}.broken"])
        mend = f"{away} lets the latest checkpoint, of step {steps[-1]}, take its place"
    elif resuming:
        command = "train_detector" if (workdir / DETECTOR).is_file() else "train"
        again = shlex.join(["python", "-m", f"dualcap_jax.{command}", "--init-from", str(workdir)])
        mend = f"{again} begins a new run with the best checkpoint, of step {steps[-1]}"
    else:
        mend = f"--checkpoint best takes the best one, of step {steps[-1]}"
    return Unreadable(message, mend)


def warn_of(failures: Sequence[Unreadable], step: int, more: str = "") -> None:
    """Warn of checkpoints in whose place that of another step is used."""
    for failure in failures:
        warnings.warn(f"{failure.fact}; that of step {step} is used in its place{more}", DataWarning, stacklevel=3)


def differing(model: Any, wanted: Any) -> str:
    """The first array whose shape is not the wanted one, in words; nothing where all are."""
    there, asked = (
        {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (model, wanted))
    )
    names = sorted(name for name in there.keys() | asked.keys() if there.get(name) != asked.get(name))
    return f"{names[0]} is {there.get(names[0], 'not there')}, wanted {asked.get(names[0], 'none')}" if names else ""


def require_fit(folder: Path, step: int | None, model: Any) -> None:
    """Raise `CheckpointError` for a checkpoint of another network, before orbax would fail half-way."""
    with ocp.StandardCheckpointer() as reader:
        found = reader.metadata(folder / str(step) / "model").item_metadata
    if found is None:
        raise FileNotFoundError("the list of its arrays is missing or broken")
    if told := differing(found.tree, model):
        raise CheckpointError(
            f"{folder}: the checkpoint of step {step} does not fit the network of config.json; was it "
            f"written by another version? ({told})"
        )


def restore_model(workdir: Path, model: dict[str, Any], which: Which) -> tuple[dict[str, Any], int]:
    """The model of a checkpoint and its step; the run may be training, and replace it meanwhile.

    Args:
        workdir: a run directory.
        model: params and batch_stats (arrays or their shapes) as the checkpoint must hold.
        which: "best" falls back on the latest where no validation has been done yet.

    Raises:
        CheckpointError: when the run has no checkpoint, one of another network, or one that can't be read.
    """
    quieten()
    names: tuple[Which, ...] = ("best", "latest") if which == "best" else ("latest",)
    for attempt in range(ATTEMPTS):
        for name in names:
            folder = workdir.absolute() / "checkpoints" / name
            if not (steps := steps_in(folder)):
                continue
            failures: list[Unreadable] = []
            for step in reversed(steps):
                failure: Exception | None = None
                try:
                    restored = _restore_step(folder, step, model)
                except Exception as error:
                    failure = broken(workdir, name, step, error, resuming=False)
                if steps_in(folder)[-1:] != steps[-1:]:  # of those that were listed some may be deleted by now
                    break
                if failure is None:
                    warn_of(failures, step)
                    return restored, step
                if not isinstance(failure, Unreadable):
                    raise failure
                failures.append(failure)
            else:
                raise failures[0]
            break
        else:
            if attempt:  # one listing may fall between a new checkpoint and the one it replaces
                raise CheckpointError(f"{workdir}: has no {which} checkpoint (training has not saved one yet)")
        time.sleep(0.05)
    raise CheckpointError(f"{workdir}: its training replaces the {which} checkpoint faster than it is read; try again")


def _restore_step(folder: Path, step: int, model: dict[str, Any]) -> dict[str, Any]:
    """The model of one step, whatever becomes of the others meanwhile: a manager would look at them too."""
    require_fit(folder, step, model)
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(folder / str(step) / "model", _abstract(model))
