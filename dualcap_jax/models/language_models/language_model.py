"""What the network asks of a language model, whatever its kind."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types

Cache = Any
"""Any pytree: what a language model remembers of the hypotheses in decoding."""


@runtime_checkable
class LanguageModel(Protocol):
    """Turns tokens into hidden states, and hidden states into logits of the next token."""

    @property
    def output_embedding(self) -> Float[Array, "vocab width"]:
        """Float32, of each token of the vocabulary: its logit is the product with a hidden state."""

    def hidden(
        self,
        tokens: Int[Array, "rows length"],
        mask: Bool[Array, "rows length"] | None = None,
        key: jax.Array | None = None,
        *,
        segments: Int[Array, "rows length"] | None = None,
        positions: Int[Array, "rows length"] | None = None,
    ) -> Float[Array, "rows length width"]:
        """Hidden states after the last norm.

        Args:
            tokens: ids below the vocabulary's size.
            mask: True on real tokens; the others are not attended to.
            key: for dropout; None turns it off.
            segments: number of the text that each token is of, where a row holds several side by side; a token attends
                to those of its own. None: a row is one text.
            positions: of each token in its text. None: in its row.
        """

    def logits(self, hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        """Next-token logits, float32; [rows, width] is one step of decoding, of few rows."""

    def init_cache(self, batch: int, beams: int, length: int) -> Cache:
        """An empty cache for sequences of up to `length` tokens; its first step may be of one beam alone."""

    def step(
        self, tokens: Int[Array, "batch beams"], position: Int[Array, ""], cache: Cache
    ) -> tuple[Float[Array, "batch beams width"], Cache]:
        """The hidden state of one more token per beam, and the cache with it.

        A token below 0 is of a beam that nobody reads any more: its hidden state means nothing.
        """

    def reorder_cache(self, cache: Cache, ancestors: Int[Array, "batch beams"]) -> Cache:
        """The cache of beams that go on from those numbered in `ancestors`."""


@dataclass(frozen=True)
class LanguageModelConfig(ABC):
    """What the configurations of all language models have; `build` tells them apart."""

    kind: ClassVar[str]
    """Its name in `LANGUAGE_MODELS` and in config.json."""

    vocab_size: int = 50257
    """Tokens in the vocabulary; training sets it to the tokenizer's."""
    max_positions: int = 1024
    """Longest sequence, in tokens."""
    width: int = 768
    """Length of a hidden state."""
    pretrained: str | None = field(default=None, kw_only=True)
    """Published weights to start from, and their shape: a name on the Hugging Face hub (gpt2, distilgpt2) or a
    directory of Hugging Face's. None: random weights."""
    revision: str | None = field(default=None, kw_only=True)
    """Branch, tag or commit of the model on the hub. None: its main branch."""
    remat: Literal["none", "blocks", "products"] = field(default="none", kw_only=True)
    """What the backward pass recomputes of each block instead of having it stored: less memory, more time. blocks: all
    of it. products: all but what dense layers return, which costs little time."""

    def __post_init__(self) -> None:
        check_types(self, "model.language.")
        for name in ("vocab_size", "max_positions", "width"):
            require(getattr(self, name) >= 1, f"model.language.{name}", getattr(self, name), "must be at least 1")

    @abstractmethod
    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> LanguageModel:
        """The module, with initial parameters; `dtype` is the computation's."""
