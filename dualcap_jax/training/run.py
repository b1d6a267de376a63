"""A run directory, open for training; and who may write in it."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.files import LOCK, is_empty
from dualcap_jax.owners import Owned, owned
from dualcap_jax.training.checkpoints import Checkpoints
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.logs import METRICS, ROW, MetricsLog, Progress, read_rows

Start = Literal["unnamed", "named", "resumed"]
"""Of a run directory: to be made under a name of its own; to be made or filled; to be trained further."""


def new_directory(path: Path) -> Path:
    """Make a directory of that name, or with a number behind it where another process just did.

    Returns:
        The directory, which nobody else was given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, made = 1, path
    while True:
        try:
            made.mkdir()
            return made
        except FileExistsError:
            number += 1
            made = path.with_name(f"{path.name}-{number}")


@contextmanager
def claimed(workdir: Path, start: Start) -> Iterator[Path]:
    """The run directory, while no other process may train in it.

    Raises:
        Owned: another process trains in it, or just began to.
    """
    if start == "unnamed":
        workdir = new_directory(workdir)
    with owned(workdir / LOCK, str(workdir)):
        if start == "named" and not is_empty(workdir):
            raise Owned(f"{workdir}: another process just trained there; the same command goes on with its run")
        yield workdir


class Run:
    """Checkpoints, log and progress of a run. Entered once its state is restored; closes them when left.

    Args:
        workdir: the run directory, which exists.
        config: how long it trains, and when it logs, validates and saves.
        validation: tells one validation from another, whose losses do not compare.

    Raises:
        ConfigError: it has trained for longer already.
        CheckpointError: its checkpoints can't be read.
        BrokenLog: a line of its metrics.jsonl is no row.
    """

    def __init__(self, workdir: Path, config: TrainingConfig, validation: str = ""):
        self.config, self.validation, self._workdir = config, validation, workdir
        self.checkpoints = Checkpoints(workdir)
        start = self.checkpoints.latest_step or 0
        message = f"must be at least {start}, the step that {workdir} is at"
        require(config.steps >= start, "training.steps", config.steps, message)
        self.best = self.checkpoints.best_loss(validation)
        """Lowest that validation judged so far; infinite where there is none."""
        deque(read_rows(workdir / METRICS, ROW), maxlen=0)

    def __enter__(self) -> "Run":
        config = self.config
        self.start = self.checkpoints.latest_step or 0  # may be of one before the newest, which could not be read
        self.log = MetricsLog(self._workdir, self.start)
        due = self.start > 0 and (self.start % config.validate_every == 0 or self.start == config.steps)
        self.lacks_validation = due and self.start not in self.log.validated
        """Whether it was stopped between a step and its validation."""
        self.progress = Progress(self.start, config.steps, config.batch_size, config.log_every)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # each, whatever becomes of the others
            for each in (self.checkpoints, self.log, self.progress):
                stack.callback(each.close)
