"""The loop around the training step: validation, checkpoints, logs, signals. It builds none of what it is given."""

import signal
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import grain
import jax

from dualcap_jax import interrupts
from dualcap_jax.errors import Stopped, UserError
from dualcap_jax.models.variables import Variables
from dualcap_jax.training.checkpoints import NotWritten
from dualcap_jax.training.objectives import Batch
from dualcap_jax.training.restoring import CheckpointError
from dualcap_jax.training.run import Run
from dualcap_jax.training.state import State
from dualcap_jax.training.step import Metrics

Scores = dict[str, float]

MEANS = {"loss", "reward", "baseline"}
"""Metrics whose mean since the line before is logged."""

UNTOLD = {"finite", "overflow", "asked"}
"""Metrics that are not logged."""

TOLD = {"loss_all_positions": "over all positions", "reward": "CIDEr-D of greedy captions", "AP": "AP", "AP50": "AP50"}
"""What is told of validation's scores besides the loss, and the words for it."""

JUDGED = ("reward", "AP")
"""Scores of which the best checkpoint has the highest, where validation tells one; else it has the lowest loss."""

PROMISE = "leaving after this step, once all is saved"
"""What an interrupted user is told."""


class LossNotFinite(UserError):
    """A loss or its gradients were not finite; the last good checkpoint stands."""

    exit_code = 1


def train(
    state: State,
    step: Callable[[State, Batch], tuple[State, Metrics]],
    evaluate: Callable[[Variables], Scores | None],
    batches: grain.DatasetIterator,
    run: Run,
    per: str = "token",
) -> State:
    """Train to the run's last step.

    Args:
        state: of the run's step `start`; donated.
        step: one training step.
        evaluate: validation's scores of a model, `loss` among them and perhaps one of `JUDGED`. None where an end was
            asked for (`interrupts.asked`) meanwhile.
        batches: endless, with a state that can be saved.
        run: where checkpoints and logs go, and when; closed at the end.
        per: what the loss is a mean over.

    Returns:
        The last state.

    Raises:
        Stopped: after a signal, when all is saved.
        LossNotFinite: when a step's loss or gradients are not finite.
        KeyboardInterrupt: after a signal that came while the last step was saved.
        UserError, OSError: from `batches` or `evaluate`, when all that was done before is saved.
    """
    config = run.config
    asked_together: int | None = None
    means: defaultdict[str, list[float]] = defaultdict(list)
    pending: deque[tuple[int, Metrics]] = deque()  # steps that run: each is waited for only once the next one does
    place = batches.get_state()

    def settle(running: int = 0) -> None:
        """Wait for the pending steps but for so many; look at their losses."""
        while len(pending) > running:
            look_at(*pending.popleft())

    def asked() -> int | None:
        """The signal that asked for an end; one of several processes obeys when all know of it."""
        return interrupts.asked() if jax.process_count() == 1 else asked_together

    def look_at(number: int, metrics: Metrics) -> None:
        nonlocal asked_together
        loss, asked_together = float(metrics["loss"]), int(metrics.get("asked", 0)) or None
        if not bool(metrics["finite"] | metrics["overflow"]):
            raise LossNotFinite(
                f"step {number}: loss {loss}, gradient norm {float(metrics['grad_norm'])}, learning rate "
                f"{float(metrics['learning_rate']):.3g}: not finite. The last checkpoint is of step "
                f"{run.checkpoints.latest_step or 0}; a lower training.learning_rate, a longer training.warmup_steps "
                "or training.clip_norm may mend it."
            )
        for name in MEANS & metrics.keys():
            means[name].append(float(metrics[name]))
        run.progress.update(number, loss)
        if number % config.log_every == 0 or number == config.steps:
            values = {name: float(value) for name, value in metrics.items() if name not in UNTOLD}
            values |= {name: sum(some) / len(some) for name, some in means.items()}
            values["images_per_second"] = run.progress.per_second
            with going_on():
                run.log.write(number, "train", values)
            means.clear()

    def validate(number: int) -> None:
        with run.progress.paused():
            scores = evaluate(state["model"])
            if scores is None:  # made up for when the run goes on
                return
            with going_on():
                run.log.write(number, "validation", scores)
            judged = next((-scores[name] for name in JUDGED if name in scores), scores["loss"])
            better = judged < run.best
            if better:
                run.best = judged
                with going_on():
                    run.checkpoints.save_best(number, state, judged, run.validation)
            told = "".join(f", {scores[name]:.4f} {what}" for name, what in TOLD.items() if name in scores)
            best = " (best)" if better else ""
            run.progress.say(f"step {number}: validation loss {scores['loss']:.4f} per {per}{told}{best}")

    @contextmanager
    def going_on() -> Iterator[None]:
        """Warn of what can't be written, where the run is told to go on."""
        try:
            yield
        except (NotWritten, OSError) as error:
            if config.on_save_error == "stop":
                raise
            if isinstance(error, NotWritten):
                run.checkpoints.reopen()
                run.best = run.checkpoints.best_loss(run.validation)
            told = error.fact if isinstance(error, NotWritten) else error
            run.progress.say(f"warning: {told}; training goes on, and tries again")

    def save(must: bool = True) -> None:
        settle()
        with going_on():  # without what was saved before
            run.checkpoints.wait()
        with nullcontext() if must else going_on():
            run.checkpoints.save(done, state, place)

    with interrupts.listening():
        with run:
            done = run.start
            try:
                if run.lacks_validation:
                    validate(run.start)
                for number in range(run.start + 1, config.steps + 1):
                    state, metrics = step(state, next(batches))
                    done, place = number, batches.get_state()
                    interrupts.hold(PROMISE)  # from now on there is something to lose, which compiling is not
                    pending.append((number, metrics))
                    settle(running=1)
                    is_last = number == config.steps
                    if number % config.validate_every == 0 or is_last:
                        settle()
                        validate(number)
                    leaves = is_last or asked() is not None
                    if number % config.checkpoint_every == 0 or leaves:
                        save(must=leaves)
                    if noted := asked():
                        goes_on = "evaluates it" if is_last else "resumes it"
                        message = (
                            f"{signal.Signals(noted).name}: saved step {number} of {config.steps}; the same command "
                        )
                        raise Stopped(message + goes_on, 128 + noted)
            except (LossNotFinite, CheckpointError, Stopped):
                raise
            except Exception as error:
                whole = (
                    isinstance(error, UserError | OSError) or interrupts.asked()
                )  # of the data: `state` is untouched
                if whole and done > run.start and jax.process_count() == 1:  # which takes all processes
                    save()
                    run.progress.say(f"saved step {done} of {config.steps}")
                raise
        interrupts.release()
    return state
