"""What every search returns."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Decoded(NamedTuple):
    """Captions, best first."""

    tokens: Int[Array, "batch returned max_length"]
    """int32, from the start token to the end token (if reached), then padding."""
    lengths: Int[Array, "batch returned"]
    """int32, tokens before the padding, start and end counted."""
    scores: Float[Array, "batch returned"]
    """float32, what the hypotheses are ranked by: the sum of their tokens' constrained log-probabilities over
    generated tokens ** length_penalty."""
    token_log_probs: Float[Array, "batch returned max_length"]
    """float32, the model's own log-probability of each generated token, in nats; 0 for start and padding."""
