"""The loop around the training step: validation, checkpoints, logs, signals. It builds none of what it is given."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

import grain

from dualcap_jax.errors import Stopped, UserError
from dualcap_jax.models.variables import Variables
from dualcap_jax.training.objectives import Batch
from dualcap_jax.training.run import Run
from dualcap_jax.training.state import State
from dualcap_jax.training.step import Metrics


class LossNotFinite(UserError):
    """A loss or its gradients were not finite; the last good checkpoint stands."""

    exit_code = 1


class _Signals:
    """Notes SIGTERM and SIGINT, so that the loop can leave between two steps."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:  # asked twice: leave now
            raise KeyboardInterrupt
        self.received = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(
    state: State,
    step: Callable[[State, Batch], tuple[State, Metrics]],
    evaluate: Callable[[Variables], dict[str, float]],
    batches: grain.DatasetIterator,
    run: Run,
) -> State:
    """Train to the run's last step.

    Args:
        state: of the run's step `start`; donated.
        step: one training step.
        evaluate: validation's scores of a model; the best checkpoint is that of the lowest `loss`.
        batches: endless, with a state that can be saved.
        run: where checkpoints and logs go, and when; closed at the end.

    Returns:
        The last state.

    Raises:
        Stopped: after SIGTERM or SIGINT, when all is saved.
        LossNotFinite: when a step's loss or gradients are not finite.
        UserError: for what is wrong with the data, when all is saved.
    """
    config = run.config
    best = run.checkpoints.best_loss()
    losses: list[float] = []
    pending: tuple[int, Metrics] | None = None  # of the step before, read only once the next one runs

    def settle() -> None:
        """Wait for the pending step; look at its loss."""
        nonlocal pending
        if pending is None:
            return
        number, metrics = pending
        pending = None
        loss = float(metrics["loss"])
        if not bool(metrics["finite"] | metrics["overflow"]):
            raise LossNotFinite(
                f"step {number}: loss {loss}, gradient norm {float(metrics['grad_norm'])}: not finite. The last "
                f"checkpoint is of step {run.checkpoints.latest_step or 0}; a lower training.learning_rate, a longer "
                "training.warmup_steps or training.clip_norm may mend it."
            )
        losses.append(loss)
        run.progress.update(number, loss)
        if number % config.log_every == 0 or number == config.steps:
            values = {name: float(value) for name, value in metrics.items() if name not in ("finite", "overflow")}
            values |= {"loss": sum(losses) / len(losses), "images_per_second": run.progress.images_per_second}
            run.log.write(number, "train", values)
            losses.clear()

    def validate(number: int) -> None:
        nonlocal best
        with run.progress.paused():
            scores = evaluate(state["model"])
            run.log.write(number, "validation", scores)
            better = scores["loss"] < best
            if better:
                best = scores["loss"]
                run.checkpoints.save_best(number, state, best)
            run.progress.say(
                f"step {number}: validation loss {scores['loss']:.4f} per token, "
                f"{scores['loss_all_positions']:.4f} over all positions{' (best)' if better else ''}"
            )

    def next_batch(number: int) -> Batch:
        """The batch of a step; where there is none, all before it is saved."""
        before = batches.get_state()
        try:
            return next(batches)
        except UserError:
            batches.set_state(before)  # what was read of the batch comes again
            save(number - 1)
            raise

    def save(number: int) -> None:
        """Save because of a mistake in what comes next, for its user to mend."""
        settle()
        if number > run.start:
            run.checkpoints.save(number, state, batches)
            run.progress.say(f"saved step {number} of {config.steps}; the same command resumes it")

    def is_due(number: int) -> bool:
        """Whether a step is followed by a validation."""
        return number % config.validate_every == 0 or number == config.steps

    with _Signals() as signals, run:
        if run.start and is_due(run.start) and run.start not in run.log.validated:
            validate(run.start)  # what it stopped at
        for number in range(run.start + 1, config.steps + 1):
            state, metrics = step(state, next_batch(number))
            settle()
            pending = number, metrics
            is_last = number == config.steps
            if is_due(number):
                settle()
                try:
                    validate(number)
                except UserError:
                    save(number)
                    raise
            if number % config.checkpoint_every == 0 or is_last or signals.received:
                settle()
                run.checkpoints.save(number, state, batches)
            if signals.received and not is_last:
                name = signal.Signals(signals.received).name
                message = f"{name}: saved step {number} of {config.steps}; the same command resumes it"
                raise Stopped(message, 128 + signals.received)
    return state
