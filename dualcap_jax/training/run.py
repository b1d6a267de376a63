"""A run directory, open for training."""

from pathlib import Path
from types import TracebackType

from dualcap_jax.training.checkpoints import Checkpoints
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.logs import MetricsLog, Progress


class Run:
    """Checkpoints, log and progress of a run; closes them when left.

    Args:
        workdir: the run directory, which exists.
        config: how long it trains, and when it logs, validates and saves.
    """

    def __init__(self, workdir: Path, config: TrainingConfig):
        self.config = config
        self.checkpoints = Checkpoints(workdir)
        self.start = self.checkpoints.latest_step or 0
        self.log = MetricsLog(workdir, self.start)
        self.progress = Progress(self.start, config.steps, config.batch_size, config.log_every)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.checkpoints.close()
        self.progress.close()
        self.log.close()
