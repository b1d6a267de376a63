"""What a run tells: metrics.jsonl, TensorBoard, and a line of progress."""

import errno
import json
import math
import os
import reprlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dualcap_jax import interrupts
from dualcap_jax.errors import UserError
from dualcap_jax.files import naming, write_text
from dualcap_jax.processes import is_first

METRICS = "metrics.jsonl"
"""In a run directory: a row a line."""

ROW = {"step": int, "split": str}
"""What each row of metrics.jsonl holds, beside values."""

BUFFER = 1 << 20
"""Bytes of rows that wait for room on a full disk."""

MEND = "take this line away, or bring the file back from a copy"


class BrokenLog(UserError):
    """A file of JSON lines with one that is none."""


def read_rows(path: Path, holding: Mapping[str, type] = {}) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON objects, such as metrics.jsonl, as they come; none where it is missing.

    A last line that was cut short, by a kill or because it is being written, is left out.

    Args:
        path: the file.
        holding: what each row must hold, by name; of metrics.jsonl `ROW`.

    Raises:
        BrokenLog: another line is no such row.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise BrokenLog(f"{path}:{number}: no JSON ({error}); {MEND}") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in holding.items()):
            wanted = f"an object{' with a ' * bool(holding)}{' and a '.join(holding)}"
            raise BrokenLog(f"{path}:{number}: {reprlib.repr(row)} is not {wanted}; {MEND}")
        yield row


class MetricsLog:
    """Appends rows to metrics.jsonl and TensorBoard, in the first of several processes.

    Rows after `step`, left by a run that was killed past its last checkpoint, are dropped: they come again.
    """

    def __init__(self, workdir: Path, step: int):
        self._path, folder = workdir / METRICS, workdir / "tensorboard"
        kept = [row for row in read_rows(self._path, ROW) if row["step"] <= step]
        self.validated = {row["step"] for row in kept if row["split"] == "validation"}
        """Steps with a row of validation."""
        if is_first():
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (self._path if is_first() else Path(os.devnull)).open("ab", BUFFER)
        self._board = None
        if is_first():
            from dualcap_jax.training.board import Board

            self._board = Board(folder, step + 1)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """One row. A value that is not finite is written as null, which JSON can hold.

        Raises:
            OSError: it can't be written; the next call tries again.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with naming(self._path):
            self._file.write(json.dumps({"step": step, "split": split, **finite}).encode() + b"\n")
            self._file.flush()
            if self._board:
                for name, value in values.items():
                    self._board.show(step, f"{split}/{name}", value)
                self._board.flush()

    def close(self) -> None:
        """Flush and close both."""
        with naming(self._path):
            self._file.close()
            if self._board:
                self._board.close()


class Progress:
    """A bar with loss, rate and time left; plain lines where there is no terminal.

    Args:
        start: first step, when resuming.
        steps: last step.
        batch_size: images, or what else is counted, per step.
        every: steps between plain lines.
        unit: what is counted.
    """

    def __init__(self, start: int, steps: int, batch_size: int, every: int, unit: str = "images"):
        self._start, self._steps, self._batch, self._every, self._unit = start, steps, batch_size, every, unit
        self._began: float | None = None
        self._paused, self._done = 0.0, start
        self._bar = None
        if sys.stderr.isatty() and is_first():
            self._bar = tqdm(initial=start, total=steps, unit="step", dynamic_ncols=True)

    @property
    def per_second(self) -> float:
        """Since the start, pauses left out; the first step, which compiles, is one."""
        if self._began is None:
            return 0.0
        seconds = time.monotonic() - self._began - self._paused
        return (self._done - self._start) * self._batch / max(seconds, 1e-9)

    def update(self, step: int, loss: float) -> None:
        """Tell that `step` is done."""
        if self._began is None:  # compilation is over
            self._start, self._began = step, time.monotonic()
        self._done = step
        rate = self.per_second
        if self._bar is not None:
            with _whoever_reads():
                self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:.1f} {self._unit}/s", refresh=False)
                self._bar.update(step - self._bar.n)
        elif step % self._every == 0 or step == self._steps:
            left = (self._steps - step) * self._batch / rate if rate else math.nan
            left_text = f", {left / 60:.1f} min left" if math.isfinite(left) else ""
            self.say(f"step {step}/{self._steps}  loss {loss:.3f}  {rate:.1f} {self._unit}/s{left_text}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what is done meanwhile out of the rate."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        with _whoever_reads():
            if self._bar is not None:
                self._bar.write(text)
            else:
                print(text, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            with _whoever_reads():
                self._bar.close()


@contextmanager
def _whoever_reads() -> Iterator[None]:
    """A terminal that is gone ends no training; a reader that is gone asks for its end, when all is saved."""
    try:
        yield
    except BrokenPipeError:
        interrupts.ask(signal.SIGPIPE)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
