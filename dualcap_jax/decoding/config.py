"""Settings of the search."""

import re
import zlib
from dataclasses import dataclass, fields
from typing import Literal

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types

LONGEST_NAME = 100
"""Characters of a report's name, beyond which it is cut: files' names may have 255 bytes."""


@dataclass(frozen=True)
class DecodingConfig:
    """How captions are searched for; names and meanings are those of transformers' `generate`."""

    num_beams: int = 5
    """Hypotheses kept alive for each image. 1: greedy search."""

    max_length: int = 30
    """Longest caption in tokens, the start token and the end token counted."""

    no_repeat_ngram_size: int = 0
    """Ban any run of this many tokens from occurring twice in a caption. 0: no ban."""

    min_length: int = 0
    """Shortest caption in tokens, the start token counted."""

    repetition_penalty: float = 1.0
    """Penalty on tokens that a caption already holds: their scores, which are negative, are multiplied by it. 1:
    none."""

    bad_words: tuple[str, ...] = ()
    """Words and phrases that no caption may hold, written as in the middle of a sentence."""

    prompt: str = ""
    """Text that every caption begins with."""

    length_penalty: float = 1.0
    """Exponent of the length that a caption's log-probability is divided by before captions are ranked. Above 0
    favours long captions."""

    early_stopping: bool | Literal["never"] = True
    """When the search of an image ends. True: once it has num_beams finished captions. False: once no live beam,
    scored at its present length, beats the worst finished one. never: as False, but scored at the most favourable
    length."""

    num_beam_groups: int = 1
    """Groups of beams in diverse beam search; each group is kept from the words that groups before it chose. 1:
    ordinary beam search."""

    diversity_penalty: float = 0.0
    """Penalty of diverse beam search: what a token's log-probability loses for each beam of an earlier group that
    just chose it."""

    num_return_sequences: int = 1
    """Captions returned for each image, best first. At most num_beams, or any number when sampling."""

    do_sample: bool = False
    """Draw captions at random instead of searching; num_beams and early_stopping then mean nothing."""

    temperature: float = 1.0
    """Divides the logits when sampling. Below 1 makes likely tokens likelier."""

    top_k: int = 0
    """When sampling, draw from this many of the likeliest tokens only. 0: from all. The original's: 10."""

    top_p: float = 1.0
    """When sampling, draw only from the likeliest tokens that together have this probability. 1: from all."""

    min_p: float = 0.0
    """When sampling, draw only from tokens at least this many times as likely as the likeliest. 0: from all."""

    seed: int = 0
    """Seed of sampling. An image's captions depend on it and on the image's place, not on the batches."""

    batch_size: int = 16
    """Images searched together in one call."""

    def name(self, usual: "DecodingConfig") -> str:
        """Tells reports apart: "beam5", "sample0", and each setting that is not the `usual` one."""
        known = {"num_beams", "do_sample", "seed", "batch_size", "num_return_sequences"}
        changed = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in known and getattr(self, field.name) != getattr(usual, field.name)
        }
        method = f"sample{self.seed}" if self.do_sample else f"beam{self.num_beams}"
        settings = "".join(f"-{name.replace('_', '-')}-{value}" for name, value in changed.items())
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", method + settings)
        texts = [*changed.get("bad_words", ()), changed.get("prompt", "")]
        if len(name) > LONGEST_NAME or not all(re.fullmatch("[a-z0-9.]*", text) for text in texts):
            name = f"{name[:LONGEST_NAME]}-{zlib.crc32(repr(changed).encode()):08x}"  # other texts may look the same
        return name

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
