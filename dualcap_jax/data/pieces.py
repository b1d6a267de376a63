"""Documents as tokens, cut to what the language model can attend to, and batches of like length."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from dualcap_jax.data.text import CaptionTokenizer

MULTIPLE = 8
"""Batches are padded to a multiple of it, so that the step is compiled for few lengths."""
WINDOW = 64
"""Batches whose pieces are sorted by length together: enough for little padding, few enough to stay mixed."""

Batch = dict[str, Any]
"""tokens int32 [rows, length + 1] and mask bool [rows, length + 1]: True on tokens, False on padding."""


@dataclass(frozen=True)
class Pieces:
    """Documents as tokens, in pieces of at most `longest` inputs.

    A piece that goes on with a document begins with the last token of the one before: each token but a document's
    first is predicted once.
    """

    tokens: Int[np.ndarray, " tokens"]
    """Of all documents, one after the other."""
    starts: Int[np.ndarray, " pieces"]
    """Where each piece begins among the tokens."""
    lengths: Int[np.ndarray, " pieces"]
    """Tokens of each piece, at least 2."""
    longest: int
    """Inputs of a piece at most; it has a token more, which is predicted last."""
    cut: int
    """Documents in more than one piece."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def predicted(self) -> int:
        """Tokens that are predicted."""
        return int((self.lengths - 1).sum())

    def batch(self, chosen: Int[np.ndarray, " chosen"], rows: int) -> Batch:
        """Some pieces, padded to `rows` rows and to the longest of them."""
        inputs = -(-(int(self.lengths[chosen].max()) - 1) // MULTIPLE) * MULTIPLE
        shape = (rows, min(inputs, self.longest) + 1)
        tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
        for row, (start, length) in enumerate(zip(self.starts[chosen], self.lengths[chosen], strict=True)):
            tokens[row, :length] = self.tokens[start : start + length]
            mask[row, :length] = True
        return {"tokens": tokens, "mask": mask}


def make_pieces(documents: Iterable[str], tokenizer: CaptionTokenizer, longest: int) -> Pieces:
    """Documents as tokens, framed as captions are.

    Args:
        documents: none of them empty.
        tokenizer: makes tokens of them.
        longest: inputs of a piece at most, at least 1.
    """
    tokens: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    total = cut = 0
    for document in documents:
        ids = np.array(tokenizer.encode(document, sys.maxsize), np.int32)
        begins = np.arange(0, len(ids) - 1, longest)
        tokens.append(ids)
        starts.append(total + begins)
        lengths.append(np.minimum(longest + 1, len(ids) - begins))
        total += len(ids)
        cut += len(begins) > 1
    return Pieces(np.concatenate(tokens), np.concatenate(starts), np.concatenate(lengths), longest, cut)


def training_batches(pieces: Pieces, batch_size: int, seed: int) -> Iterator[Batch]:
    """Batches without end; each epoch has every piece once, in an order of its own."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(pieces))
        for begin in range(0, len(order), WINDOW * batch_size):
            window = order[begin : begin + WINDOW * batch_size]
            by_length = window[np.argsort(pieces.lengths[window], kind="stable")]
            chunks = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
            for chunk in rng.permutation(len(chunks)):
                yield pieces.batch(chunks[chunk], batch_size)


def evaluation_batches(pieces: Pieces, batch_size: int) -> Iterator[Batch]:
    """Every piece once, by length."""
    order = np.argsort(pieces.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield pieces.batch(order[start : start + batch_size], batch_size)


def unigram_perplexity(train: Pieces, held_out: Pieces, vocab_size: int) -> float:
    """Of a model that knows how frequent each token is, and no more: what a language model must undercut."""
    counts = np.ones(vocab_size)  # one each, so that none is impossible
    np.add.at(counts, _predicted(train), 1)
    return float(np.exp(-np.log(counts / counts.sum())[_predicted(held_out)].mean()))


def _predicted(pieces: Pieces) -> Int[np.ndarray, " predicted"]:
    """Every token that is predicted."""
    parts = [
        pieces.tokens[start + 1 : start + length] for start, length in zip(pieces.starts, pieces.lengths, strict=True)
    ]
    return np.concatenate(parts)
