"""Settings of the search."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DecodingConfig:
    """How captions are searched for; names and meanings are those of transformers' `generate`."""

    num_beams: int = 5
    """Hypotheses kept alive for each picture; 1 is greedy search."""

    max_length: int = 30
    """Longest caption in tokens, the start token and the end token counted."""

    no_repeat_ngram_size: int = 0
    """No run of this many tokens may occur twice in a caption, the start token counted; 0 allows all."""

    length_penalty: float = 1.0
    """Captions rank by log-probability / generated tokens ** length_penalty; above 0 favours long ones."""

    early_stopping: bool | Literal["never"] = True
    """When a picture is done. True: with num_beams finished captions. False: when no live beam, scored at its
    present length, beats the worst finished one. never: the same, scored at the most favourable length."""

    num_return_sequences: int = 1
    """Captions returned for each picture, best first; at most num_beams."""

    batch_size: int = 16
    """Pictures searched together in one call."""

    def __post_init__(self) -> None:
        """Reject impossible values, naming field, value and accepted range."""
        for name, least in [
            ("num_beams", 1),
            ("max_length", 2),
            ("no_repeat_ngram_size", 0),
            ("num_return_sequences", 1),
            ("batch_size", 1),
        ]:
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"decoding.{name}={value}: must be at least {least}")
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"decoding.num_return_sequences={self.num_return_sequences}: "
                f"must be at most decoding.num_beams={self.num_beams}"
            )
        if not abs(self.length_penalty) < float("inf"):
            raise ValueError(f"decoding.length_penalty={self.length_penalty}: must be a finite number")
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise ValueError(f"decoding.early_stopping={self.early_stopping!r}: must be True, False or 'never'")
