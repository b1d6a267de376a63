"""The loop that trains a language model on text: perplexity on what is held out, the best weights, signals."""

import math
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import jax

from dualcap_jax import interrupts
from dualcap_jax.data.pieces import Batch
from dualcap_jax.errors import Stopped
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.language.step import Params, State
from dualcap_jax.training.logs import Progress
from dualcap_jax.training.loop import LossNotFinite


@dataclass(frozen=True)
class Best:
    """The best weights so far."""

    step: int = 0
    """After which they were; 0: there are none yet."""
    perplexity: float = math.inf
    """Per token, on what is held out."""

    @property
    def told(self) -> str:
        """What became of them, in words."""
        if not self.step:
            return "nothing was saved: the perplexity on what is held out was not measured yet"
        return f"saved are the weights after step {self.step}, of perplexity {self.perplexity:.2f} on what is held out"


def perplexity(
    step: Callable[[Params, Batch], tuple[jax.Array, jax.Array]], params: Params, batches: Iterable[Batch]
) -> float | None:
    """Per token; None where an end was asked for meanwhile."""
    nll = tokens = 0.0
    for batch in batches:
        if interrupts.asked():
            return None
        sums = jax.device_get(step(params, batch))
        nll, tokens = nll + float(sums[0]), tokens + float(sums[1])
    return math.exp(min(nll / tokens, 700.0))


def train(
    state: State,
    step: Callable[[State, Batch], tuple[State, jax.Array]],
    evaluate: Callable[[Params], float | None],
    batches: Iterator[Batch],
    save: Callable[[Params, Best], None],
    config: TrainingConfig,
) -> Best:
    """Train to the last step, saving the best weights as they come.

    Args:
        state: before the first step; donated.
        step: one training step.
        evaluate: the perplexity of some weights on what is held out; None where an end was asked for meanwhile.
        batches: endless.
        save: writes weights, which replace those that it wrote before.
        config: how many steps, and when perplexity is measured.

    Returns:
        What was saved last.

    Raises:
        Stopped: after a signal.
        LossNotFinite: when a step's loss is not finite.
    """
    best = Best()
    progress = Progress(0, config.steps, config.batch_size, config.log_every, "documents")

    def look_at(number: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise LossNotFinite(
                f"step {number}: loss {loss}: not finite; {best.told}. A lower --learning-rate or a longer "
                "--warmup-steps may mend it"
            )
        progress.update(number, loss)

    def measured(number: int) -> Best:
        with progress.paused():
            score = evaluate(state["params"])
            if score is None:
                return best
            better = score < best.perplexity
            progress.say(f"step {number}: perplexity {score:.2f} per token on what is held out{' (best)' * better}")
            if not better:
                return best
            found = Best(number, score)
            save(state["params"], found)
            return found

    try:
        running: jax.Array | None = None  # each step is waited for only once the next one runs
        for number in range(1, config.steps + 1):
            state, loss = step(state, next(batches))
            interrupts.hold(f"leaving after this step; {best.told}")
            if running is not None:
                look_at(number - 1, float(running))
            running = loss
            if number % config.validate_every == 0 or number == config.steps:
                look_at(number, float(loss))
                running, best = None, measured(number)
            if asked := interrupts.asked():
                raise Stopped(
                    f"{signal.Signals(asked).name} at step {number} of {config.steps}: {best.told}", 128 + asked
                )
    finally:
        progress.close()
    interrupts.release()
    return best
