"""What a run tells: metrics.jsonl, TensorBoard, and a line of progress."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from dualcap_jax.files import write_text


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file such as metrics.jsonl, none where it is missing; a line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class MetricsLog:
    """Appends rows to metrics.jsonl and TensorBoard.

    Rows after `step`, left by a run that was killed past its last checkpoint, are dropped: they come again.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_json_lines(path) if row["step"] <= step]
        self.validated = {row["step"] for row in kept if row["split"] == "validation"}
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """One row. A value that is not finite is written as null, which JSON can hold."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


class Progress:
    """A bar with loss, images/s and time left; plain lines where there is no terminal.

    Args:
        start: first step, when resuming.
        steps: last step.
        batch_size: images per step.
        every: steps between plain lines.
    """

    def __init__(self, start: int, steps: int, batch_size: int, every: int):
        self._start, self._steps, self._batch, self._every = start, steps, batch_size, every
        self._began: float | None = None
        self._paused, self._done = 0.0, start
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(initial=start, total=steps, unit="step", dynamic_ncols=True)

    @property
    def images_per_second(self) -> float:
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
        rate = self.images_per_second
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:.1f} images/s", refresh=False)
            self._bar.update(step - self._bar.n)
        elif step % self._every == 0 or step == self._steps:
            left = (self._steps - step) * self._batch / rate if rate else math.nan
            left_text = f", {left / 60:.1f} min left" if math.isfinite(left) else ""
            print(f"step {step}/{self._steps}  loss {loss:.3f}  {rate:.1f} images/s{left_text}", flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what is done meanwhile out of the rate."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
