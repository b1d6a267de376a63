"""The loop around the training step: data, validation, checkpoints, logs, signals."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import grain

from dualcap_jax.errors import Stopped, UserError
from dualcap_jax.models.dual import ModelConfig
from dualcap_jax.pretrained.load import load_pretrained
from dualcap_jax.training.checkpoints import Checkpoints
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.logs import MetricsLog, Progress
from dualcap_jax.training.optimizer import learning_rate
from dualcap_jax.training.step import (
    Batch,
    State,
    init_state,
    make_eval_step,
    make_train_step,
    mean_losses,
)


class LossNotFinite(UserError):
    """A loss or its gradients were not finite; the last good checkpoint stands."""

    exit_code = 1


@dataclass
class _Signals:
    """Notes SIGTERM and SIGINT, so that the loop can leave between two steps."""

    received: int | None = None

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:  # asked twice: leave now
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(
    config: ModelConfig,
    training: TrainingConfig,
    batches: grain.DatasetIterator,
    validation_batches: Callable[[], Iterable[Batch]],
    workdir: Path,
) -> State:
    """Train to `training.steps`, from the run's latest checkpoint where there is one.

    Args:
        config: the network; its vocabulary is the tokenizer's.
        training: how.
        batches: endless, with a state that can be saved.
        validation_batches: makes one pass over the validation examples.
        workdir: the run directory, which exists.

    Returns:
        The last state.

    Raises:
        Stopped: after SIGTERM or SIGINT, when all is saved.
        PretrainedError: when a fresh run's published weights cannot be had, read or fitted.
        LossNotFinite: when a step's loss or gradients are not finite.
    """
    checkpoints = Checkpoints(workdir)
    state = init_state(config, training)
    start = checkpoints.latest_step or 0
    if start:
        state = checkpoints.restore(state, batches)
    else:
        state["model"], notes = load_pretrained(config, state["model"])
        print("".join(f"{note}\n" for note in notes), end="", flush=True)
    train_step, eval_step = make_train_step(config, training), make_eval_step(config)
    schedule = learning_rate(training)
    best, log = checkpoints.best_loss(), MetricsLog(workdir, start)
    progress = Progress(start, training.steps, training.batch_size, training.log_every)
    recent: list[float] = []
    pending = None  # metrics of the step before, read only once the next one runs

    def settle() -> None:
        """Wait for the pending step; look at its loss."""
        nonlocal pending
        if pending is None:
            return
        step, metrics = pending
        pending = None
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not bool(metrics["finite"]):
            overflow = config.dtype == "float16" and loss - loss == 0
            if not overflow:
                raise LossNotFinite(
                    f"step {step}: loss {loss}, gradient norm {norm}: not finite. The last checkpoint is of "
                    f"step {checkpoints.latest_step or 0}; a lower training.learning_rate, a longer "
                    "training.warmup_steps or training.clip_norm may mend it."
                )
        recent.append(loss)
        progress.update(step, loss)
        if step % training.log_every == 0 or step == training.steps:
            values = {
                "loss": sum(recent) / len(recent),
                "grad_norm": norm,
                "learning_rate": float(schedule(step - 1)),
                "images_per_second": progress.images_per_second,
            }
            log.write(step, "train", values)
            recent.clear()

    with _Signals() as signals:
        try:
            for step in range(start + 1, training.steps + 1):
                state, metrics = train_step(state, next(batches))
                settle()
                pending = step, metrics
                last = step == training.steps
                if step % training.validate_every == 0 or last:
                    settle()
                    began = time.monotonic()
                    sums = Counter[str]()
                    for batch in validation_batches():
                        sums.update({k: float(v) for k, v in eval_step(state["model"], batch).items()})
                    scores = mean_losses(sums)
                    log.write(step, "validation", scores)
                    better = scores["loss"] < best
                    if better:
                        best = scores["loss"]
                        checkpoints.save_best(step, state, best)
                    progress.say(
                        f"step {step}: validation loss {scores['loss']:.4f} per token, "
                        f"{scores['loss_all_positions']:.4f} over all positions{' (best)' if better else ''}"
                    )
                    progress.pause(time.monotonic() - began)
                if step % training.checkpoint_every == 0 or last or signals.received:
                    settle()
                    checkpoints.save(step, state, batches)
                if signals.received and not last:
                    name = signal.Signals(signals.received).name
                    message = f"{name}: saved step {step} of {training.steps}; the same command resumes it"
                    raise Stopped(message, 128 + signals.received)
        finally:
            checkpoints.close()
            progress.close()
            log.close()
    return state
