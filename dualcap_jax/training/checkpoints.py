"""Checkpoints of a run: `checkpoints/latest` to resume from, `checkpoints/best` to use."""

import errno
import json
import logging
import os
import shlex
import shutil
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grain
import grain.checkpoint
import jax
import orbax.checkpoint as ocp

from dualcap_jax.data.pipeline import dealt_anew
from dualcap_jax.errors import DataWarning, UserError
from dualcap_jax.processes import first_alone, is_first
from dualcap_jax.training.config import Which

ATTEMPTS = 20
"""Times that a checkpoint is read anew where another takes its place meanwhile."""

KEPT: dict[Which, int] = {"latest": 2, "best": 1}
"""Checkpoints of each kind that are kept. Training falls back on the older of two where the newest can't be read."""


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


class NotWritten(CheckpointError):
    """A checkpoint that can't be written."""

    at_once = True


def _abstract(tree: Any) -> Any:
    """Shapes of arrays that this process is to have on one device, whatever devices they were saved from."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree)


class _Place:
    """The state of an iterator as it was, in the form that grain's handler saves."""

    def __init__(self, state: Any):
        self._state = state

    def get_state(self) -> bytes:
        """As JSON."""
        return json.dumps(self._state, indent=4).encode()


def _places_in(folder: Path) -> list[Any]:
    """The state of each process's iterator, as grain's handler wrote them."""
    count = len(list(folder.glob("process_*-of-*.json")))
    return [
        json.loads((folder / f"process_{process}-of-{count}.json").read_bytes()) for process in range(max(count, 1))
    ]


def _set_place(iterator: grain.DatasetIterator, states: list[Any]) -> None:
    """Set an iterator to where it was, whatever the number of processes that were there."""
    process, processes = jax.process_index(), jax.process_count()
    iterator.set_state(states[process] if len(states) == processes else dealt_anew(states, processes))


class Checkpoints:
    """Writes and restores a run's checkpoints, asynchronously; each is whole or not there.

    `latest` holds model, optimizer and the state of the input pipeline; `best` the model alone, with its
    validation loss. Parts of checkpoints that a killed process left are removed.
    """

    def __init__(self, workdir: Path):
        _quieten()
        self._workdir, self._folder = workdir, workdir.absolute() / "checkpoints"
        self._sweep()
        self._latest, self._best = self._open("latest"), self._open("best")

    def _sweep(self) -> None:
        """Remove parts of checkpoints. Of a write that just failed, some threads may still be at work in them."""
        for _ in range(ATTEMPTS if is_first() else 0):
            if not (parts := list(self._folder.glob("*/*.orbax-checkpoint-tmp"))):
                return
            for part in parts:
                shutil.rmtree(part, ignore_errors=True)
            time.sleep(0.01)

    def _open(self, which: Which) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT[which])
        with self._reading(which, None):
            return ocp.CheckpointManager(self._folder / which, options=options)

    @property
    def latest_step(self) -> int | None:
        """Step of the latest checkpoint; None where there is none."""
        return self._latest.latest_step()

    def best_loss(self, validation: str = "") -> float:
        """What the best checkpoint was judged by, such as validation's loss; infinite where there is none, or it is of
        another `validation`.

        Raises:
            CheckpointError: when it can't be read.
        """
        if (step := self._best.latest_step()) is None:
            return float("inf")
        with self._reading("best", step):
            restored = self._best.restore(step, args=ocp.args.Composite(scores=ocp.args.JsonRestore()))
            of = restored["scores"].get("validation", validation)
            return restored["scores"]["loss"] if of == validation else float("inf")

    def save(self, step: int, state: dict[str, Any], place: Any) -> None:
        """Save all that resuming at `step` needs, replacing the checkpoint before it.

        Args:
            step: that was done last.
            state: after it.
            place: state of the batches' iterator then.

        Raises:
            NotWritten: when this one or the one before it can't be.
        """
        if step == self._latest.latest_step():
            return
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(state["model"]),
            optimizer=ocp.args.StandardSave(state["optimizer"]),
            data=grain.checkpoint.CheckpointSave(_Place(place)),
        )
        with self._writing():
            self._best.wait_until_finished()  # a run that goes on from here won't validate what came before anew
            self._latest.save(step, args=items)

    def save_best(self, step: int, state: dict[str, Any], loss: float, validation: str = "") -> None:
        """Save the model alone as the best so far, replacing the best before it.

        Args:
            step: that was done last.
            state: after it.
            loss: by validation, or what else it is judged by; the lowest is the best.
            validation: tells one validation from another, whose losses do not compare.

        Raises:
            NotWritten: when this one or the one before it can't be.
        """
        scores = {"step": step, "loss": loss, "validation": validation}
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(state["model"]),
            scores=ocp.args.JsonSave(scores),
        )
        with self._writing():
            self._best.wait_until_finished()
            for other in self._best.all_steps():
                if other >= step:  # of another validation, or of steps that are trained anew
                    self._best.delete(other)
            self._best.save(step, args=items)

    def restore(self, state: dict[str, Any], iterator: grain.DatasetIterator) -> dict[str, Any]:
        """The latest state that can be read, in the shapes that `state` tells and laid out as it tells.

        Sets `iterator` to where it was. Newer ones, which can't be read, are warned of and moved aside: `latest_step`
        is then the step of this one.

        Raises:
            CheckpointError: when the latest is of another network, or none can be read.
            DataError: another number of processes read the data, with workers.
        """
        items = ocp.args.Composite(
            model=ocp.args.StandardRestore(state["model"]),
            optimizer=ocp.args.StandardRestore(state["optimizer"]),
        )
        folder, broken = self._folder / "latest", dict[int, Unreadable]()
        for step in reversed(steps_in(folder)):
            try:
                with self._reading("latest", step):
                    _require_fit(folder, step, state["model"])
                    restored = self._latest.restore(step, args=items)
                    states = _places_in(folder / str(step) / "data")
                break
            except Unreadable as error:
                broken[step] = error
        else:
            raise next(iter(broken.values()))
        _set_place(iterator, states)
        with first_alone() as first:
            for other in broken if first else ():
                shutil.rmtree(folder / f"{other}.broken", ignore_errors=True)
                (folder / str(other)).rename(folder / f"{other}.broken")
        self._latest.reload()
        _warn_of(list(broken.values()), step, ", and it is kept under a name that ends in .broken")
        return {"model": restored["model"], "optimizer": restored["optimizer"]}

    def wait(self) -> None:
        """Wait until what was saved is written.

        Raises:
            NotWritten: when it can't be.
        """
        with self._writing():
            self._best.wait_until_finished()
            self._latest.wait_until_finished()

    def reopen(self) -> None:
        """After `NotWritten`: forget and remove what failed, so that the next can be saved."""
        for manager in (self._best, self._latest):
            with suppress(Exception):
                manager.close()
        self._sweep()
        self._latest, self._best = self._open("latest"), self._open("best")

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            NotWritten: when it can't be.
        """
        with self._writing():
            self._latest.close()
            self._best.close()

    @contextmanager
    def _reading(self, which: Which, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise _broken(self._workdir, which, step, error, resuming=True) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            stands = steps_in(self._folder / "latest")
            raise NotWritten(
                f"{self._workdir}: a checkpoint can't be written ({_reason(error)}). Nothing half-written counts as one"
                + (f", and that of step {stands[-1]} stands" if stands else ""),
                "make room, and the same command goes on from there",
            ) from None


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in `latest` or `best`, the newest last."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())


def _quieten() -> None:
    """Orbax tells a save in a dozen lines, and a failure, which we tell too, in hundreds."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _reason(error: BaseException) -> str:
    """What lies at the bottom of orbax's and tensorstore's account of a failure, in a line."""
    full = os.strerror(errno.ENOSPC)
    if full in str(error):
        return f"the disk is full: {full}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {textwrap.shorten(lines[0], 240, placeholder=' ...')}".removesuffix(": ")


def _broken(workdir: Path, which: Which, step: int | None, error: Exception, *, resuming: bool) -> Exception:
    """What is to be told of a checkpoint that can't be read, with the one that can be taken instead."""
    if isinstance(error, CheckpointError | MemoryError | jax.errors.JaxRuntimeError):  # it may be whole
        return error
    folder = workdir / "checkpoints" / which
    message = f"{folder if step is None else folder / str(step)}: the checkpoint can't be read ({_reason(error)})"
    other: Which = "latest" if which == "best" else "best"
    if not (steps := steps_in(workdir / "checkpoints" / other)):
        mend = "the run has no other: bring it back from a copy, or train anew"
    elif which == "best":
        away = shlex.join(["mv", str(folder), f"{folder}.broken"])
        mend = f"{away} lets the latest checkpoint, of step {steps[-1]}, take its place"
    elif resuming:
        again = shlex.join(["python", "-m", "dualcap_jax.train", "--init-from", str(workdir)])
        mend = f"{again} begins a new run with the best checkpoint, of step {steps[-1]}"
    else:
        mend = f"--checkpoint best takes the best one, of step {steps[-1]}"
    return Unreadable(message, mend)


def _warn_of(failures: Sequence[Unreadable], step: int, more: str = "") -> None:
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


def _require_fit(folder: Path, step: int | None, model: Any) -> None:
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
    _quieten()
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
                    failure = _broken(workdir, name, step, error, resuming=False)
                if steps_in(folder)[-1:] != steps[-1:]:  # of those that were listed some may be deleted by now
                    break
                if failure is None:
                    _warn_of(failures, step)
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
    _require_fit(folder, step, model)
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(folder / str(step) / "model", _abstract(model))
