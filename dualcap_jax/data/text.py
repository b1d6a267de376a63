"""Captions as token ids: GPT-2's byte-level BPE with its own vocabulary, or with one trained on the captions.

A caption is framed as the original does it, `<|endoftext|> A dog.<|endoftext|>`: the same token at both ends, and
each word, the first one too, carrying its leading space.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dualcap_jax.data.records import DataError

END_OF_TEXT = "<|endoftext|>"
_FILES = ("vocab.json", "merges.txt")
_SPACE = re.compile(r"[\s\x00]+")


def normalize_caption(text: str) -> str:
    """Make each run of white space (line ends, NUL) one space, with none at the ends; lone surrogates are "?"."""
    return _SPACE.sub(" ", text.encode("utf-8", "replace").decode()).strip()


class CaptionTokenizer:
    """Byte-level BPE with GPT-2's way of splitting words, and the tokens that frame a caption.

    Any text survives `decode(encode(text))` but for its white space, which `normalize_caption` evens out. The
    framing token's own name in a caption is text like any other.
    """

    def __init__(self, model: models.BPE):
        """`model`: vocabulary and merges; the vocabulary must hold `<|endoftext|>`, which frames captions and pads."""
        self._tokenizer = Tokenizer(model)
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        vocabulary = self._tokenizer.get_vocab()
        if END_OF_TEXT not in vocabulary:
            raise DataError(f"the tokenizer's vocabulary has no {END_OF_TEXT!r} token")
        self.start_id: int = vocabulary[END_OF_TEXT]
        self.end_id: int = vocabulary[END_OF_TEXT]
        self.pad_id: int = vocabulary[END_OF_TEXT]
        self.vocab_size: int = max(vocabulary.values()) + 1

    def encode(self, caption: str, max_length: int) -> list[int]:
        """Frame and tokenize a caption.

        Args:
            caption: any text.
            max_length: tokens to keep at most; a longer caption loses its end, closing token included.

        Returns:
            Token ids, `start_id` first, and `end_id` last unless the caption was cut.
        """
        ids = self._tokenizer.encode(" " + normalize_caption(caption)).ids
        return [self.start_id, *ids, self.end_id][:max_length]

    def count_longer(self, captions: Iterable[str], max_length: int) -> int:
        """How many captions `encode` would cut at `max_length`."""
        longer, pending = 0, (" " + normalize_caption(caption) for caption in captions)
        while chunk := list(islice(pending, 10_000)):
            longer += sum(len(encoding) + 2 > max_length for encoding in self._tokenizer.encode_batch_fast(chunk))
        return longer

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """The caption in token ids: up to the closing token; a `start_id` at the start is the opening one."""
        ids = [int(token) for token in ids]
        if ids and ids[0] == self.start_id:
            ids = ids[1:]
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return self._tokenizer.decode(ids, skip_special_tokens=False).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token but for closing ones; what is part of a character is "\ufffd"."""
        return [self._tokenizer.decode([int(token)]) for token in ids if token != self.end_id]

    @property
    def digest(self) -> str:
        """Of vocabulary and merges: tells one tokenizer from another."""
        model = json.loads(self._tokenizer.to_str())["model"]
        content = json.dumps([model["vocab"], model["merges"]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        """It in the form that `tokenizers.Tokenizer.from_str` reads."""
        return self._tokenizer.to_str()

    def save(self, directory: str | Path) -> None:
        """Write vocab.json, merges.txt and the little that transformers wants beside them."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._tokenizer.model.save(str(directory))
        special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special}
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(name_or_directory: str | Path) -> CaptionTokenizer:
    """Read vocab.json and merges.txt of a GPT-2 vocabulary.

    Args:
        name_or_directory: a local directory, or a model on the Hugging Face hub such as "gpt2" (needs a
            network unless it is in the hub's cache).

    Returns:
        The tokenizer.

    Raises:
        DataError: the files are not there, can't be had, or are broken.
    """
    directory = Path(name_or_directory)
    if directory.is_dir():
        paths = [directory / name for name in _FILES]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"tokenizer directory '{directory}' has no {' and no '.join(missing)}")
    else:
        paths = _download(str(name_or_directory))
    try:
        return CaptionTokenizer(models.BPE.from_file(*map(str, paths)))
    except DataError as error:
        raise DataError(f"tokenizer '{name_or_directory}': {error}") from None
    except Exception as error:  # the Rust side raises bare Exception
        raise DataError(f"tokenizer '{name_or_directory}': broken vocab.json or merges.txt ({error})") from None


def _download(name: str) -> list[Path]:
    from huggingface_hub import hf_hub_download  # slow to import, and seldom needed

    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise DataError(f"tokenizer directory '{name}' does not exist")
    try:
        return [Path(hf_hub_download(name, file)) for file in _FILES]
    except Exception as error:  # bad name, unknown repository, no network, no permission: many types
        reason = re.split(r"\n|(?<=\w)\. ", str(error).strip())[0]
        raise DataError(
            f"tokenizer '{name}' is neither a local directory with vocab.json and merges.txt, nor can it be had "
            f"from the Hugging Face hub ({type(error).__name__}: {reason})"
        ) from None


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> CaptionTokenizer:
    """Train a byte-level BPE on captions.

    Args:
        captions: the training captions; the same ones give the same tokenizer.
        vocab_size: tokens in all: 256 bytes, the framing token, and as many merges as there is room for (fewer
            where the captions have no more pairs to merge).

    Returns:
        A tokenizer that can encode any text. As in GPT-2's, the framing token has the last id and 0 is "!".
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((" " + normalize_caption(caption) for caption in captions), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    vocabulary = {**learned["vocab"], END_OF_TEXT: len(learned["vocab"])}
    return CaptionTokenizer(models.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in learned["merges"]]))
