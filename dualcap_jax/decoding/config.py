"""Settings of the search."""

import re
from dataclasses import dataclass, fields
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types


@dataclass(frozen=True)
class DecodingConfig:
    """How captions are searched for; names and meanings are those of transformers' `generate`."""

    num_beams: int = 5
    """Hypotheses kept alive for each picture; 1 is greedy search."""

    max_length: int = 30
    """Longest caption in tokens, the start token and the end token counted."""

    no_repeat_ngram_size: int = 0
    """No run of this many tokens may occur twice in a caption, the start token counted; 0 allows all."""

    min_length: int = 0
    """Captions are at least this many tokens long before they end, the start token counted."""

    repetition_penalty: float = 1.0
    """The scores of tokens that a caption has already are multiplied by it (they are negative); 1 changes nothing."""

    bad_words: tuple[str, ...] = ()
    """Words and phrases that no caption may hold, as they are written in the middle of a sentence."""

    prompt: str = ""
    """What captions begin with; the model goes on from there."""

    length_penalty: float = 1.0
    """Captions rank by log-probability / generated tokens ** length_penalty; above 0 favours long ones."""

    early_stopping: bool | Literal["never"] = True
    """When a picture is done. True: with num_beams finished captions. False: when no live beam, scored at its
    present length, beats the worst finished one. never: the same, scored at the most favourable length."""

    num_beam_groups: int = 1
    """Diverse beam search: the beams are searched in so many groups, each kept from the words of those before it."""

    diversity_penalty: float = 0.0
    """Of diverse beam search: taken off a token's log-probability for each beam of an earlier group that just chose
    it."""

    num_return_sequences: int = 1
    """Captions returned for each picture, best first; at most num_beams. Of sampling: as drawn, any number."""

    do_sample: bool = False
    """Draw captions by chance instead of searching; num_beams and early_stopping are then without meaning."""

    temperature: float = 1.0
    """Of sampling: logits are divided by it; below 1 the likely becomes likelier."""

    top_k: int = 0
    """Of sampling: only so many of the likeliest tokens may be drawn (the original's: 10); 0: all."""

    top_p: float = 1.0
    """Of sampling: only the likeliest tokens that together have this probability may be drawn."""

    min_p: float = 0.0
    """Of sampling: only tokens at least so many times as likely as the likeliest may be drawn."""

    seed: int = 0
    """Of sampling: the same seed draws the same captions, in whatever batches the pictures come."""

    batch_size: int = 16
    """Pictures searched together in one call."""

    def name(self, usual: "DecodingConfig") -> str:
        """Tells reports apart: "beam5", "sample0", and each setting that is not the `usual` one."""
        known = {"num_beams", "do_sample", "seed", "batch_size", "num_return_sequences"}
        changed = [
            f"-{field.name.replace('_', '-')}-{getattr(self, field.name)}"
            for field in fields(self)
            if field.name not in known and getattr(self, field.name) != getattr(usual, field.name)
        ]
        method = f"sample{self.seed}" if self.do_sample else f"beam{self.num_beams}"
        return re.sub(r"[^\w.-]+", "_", "".join([method, *changed]))

    @property
    def less_memory(self) -> str:
        """What to change where memory does not suffice."""
        return f"lower --decoding.batch-size (now {self.batch_size}) or --decoding.num-beams (now {self.num_beams})"

    def __post_init__(self) -> None:
        """Reject impossible values, naming field, value and accepted range."""
        check_types(self, "decoding.")
        for name, least in [
            ("num_beams", 1),
            ("num_beam_groups", 1),
            ("diversity_penalty", 0),
            ("max_length", 2),
            ("no_repeat_ngram_size", 0),
            ("min_length", 0),
            ("top_k", 0),
            ("seed", 0),
            ("num_return_sequences", 1),
            ("batch_size", 1),
        ]:
            self._require(least <= getattr(self, name) < float("inf"), name, f"must be at least {least}")
        beams = self.num_beams
        enough = self.num_return_sequences <= beams or self.do_sample
        self._require(enough, "num_return_sequences", f"must be at most decoding.num_beams={beams}")
        self._require(beams % self.num_beam_groups == 0, "num_beam_groups", f"must divide decoding.num_beams={beams}")
        self._require(
            (self.num_beam_groups > 1) == (self.diversity_penalty > 0),
            "num_beam_groups",
            f"decoding.diversity_penalty is {self.diversity_penalty}; diverse beam search needs more than 1 group and "
            "a penalty above 0, any other search neither",
        )
        fits = self.min_length <= self.max_length
        self._require(fits, "min_length", f"must be at most decoding.max_length={self.max_length}")
        for name in ("repetition_penalty", "temperature"):
            self._require(0 < getattr(self, name) < float("inf"), name, "must be more than 0")
        self._require(0 < self.top_p <= 1, "top_p", "must be more than 0 and at most 1")
        self._require(0 <= self.min_p <= 1, "min_p", "must be 0 to 1")
        self._require(all(word.strip() for word in self.bad_words), "bad_words", "must not hold an empty word")
        self._require(abs(self.length_penalty) < float("inf"), "length_penalty", "must be a finite number")

    def _require(self, condition: bool, name: str, accepted: str) -> None:
        require(condition, f"decoding.{name}", getattr(self, name), accepted)
