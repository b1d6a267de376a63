"""Checkpoints of a run: `checkpoints/latest` to resume from, `checkpoints/best` to use."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grain
import grain.checkpoint
import jax
import orbax.checkpoint as ocp

from dualcap_jax.data.pipeline import dealt_anew
from dualcap_jax.processes import first_alone, is_first
from dualcap_jax.training.config import Which
from dualcap_jax.training.restoring import (
    ATTEMPTS,
    CheckpointError,
    Unreadable,
    broken,
    quieten,
    reason_of,
    require_fit,
    steps_in,
    warn_of,
)

KEPT: dict[Which, int] = {"latest": 2, "best": 1}
"""Checkpoints of each kind that are kept. Training falls back on the older of two where the newest can't be read."""


class NotWritten(CheckpointError):
    """A checkpoint that can't be written."""

    at_once = True


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
        quieten()
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
        folder, failures = self._folder / "latest", dict[int, Unreadable]()
        for step in reversed(steps_in(folder)):
            try:
                with self._reading("latest", step):
                    require_fit(folder, step, state["model"])
                    restored = self._latest.restore(step, args=items)
                    states = _places_in(folder / str(step) / "data")
                break
            except Unreadable as error:
                failures[step] = error
        else:
            raise next(iter(failures.values()))
        _set_place(iterator, states)
        with first_alone() as first:
            for other in failures if first else ():
                shutil.rmtree(folder / f"{other}.broken", ignore_errors=True)
                (folder / str(other)).rename(folder / f"{other}.broken")
        self._latest.reload()
        warn_of(list(failures.values()), step, ", and it is kept under a name that ends in .broken")
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
            raise broken(self._workdir, which, step, error, resuming=True) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            stands = steps_in(self._folder / "latest")
            raise NotWritten(
                f"{self._workdir}: a checkpoint can't be written ({reason_of(error)}). Nothing half-written counts as "
                "one" + (f", and that of step {stands[-1]} stands" if stands else ""),
                "make room, and the same command goes on from there",
            ) from None
