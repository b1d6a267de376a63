"""How captions are split into words, by sacrebleu's ways; and when what was counted of them means nothing."""

import re
from collections.abc import Callable, Sequence
from itertools import chain

from sacrebleu.metrics import BLEU

from dualcap_jax.evaluation.config import Tokenize
from dualcap_jax.evaluation.metrics.java_metrics import MetricError

_HAN = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u30ff\uff66-\uff9f"
_SOUTH_EAST = "\u0e01-\u0eff\u0f40-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
_WITHOUT_SPACES = {"zh": (f"[{_HAN}{_KANA}]", 3), "char": (f"[{_SOUTH_EAST}]", 9)}
"""Scripts that put no spaces between words, by what splits them: their letters, and how many are more than a word."""


def splitter(tokenize: Tokenize) -> Callable[[str], str]:
    """A function that puts spaces between the words of a text.

    Raises:
        MetricError: it needs what is not installed.
    """
    try:
        split: Callable[[str], str] = BLEU(tokenize=tokenize).tokenizer
    except (RuntimeError, ImportError):
        raise MetricError(
            f"evaluation.tokenize={tokenize!r}: needs mecab: pip install 'sacrebleu[{tokenize[:2]}]'; or take "
            "--evaluation.tokenize char, each character a word"
        ) from None
    return split


def without_spaces(references: Sequence[Sequence[str]], tokenize: Tokenize) -> str:
    """A warning where most of the references' words are whole sentences of a script without spaces, else nothing."""
    split = splitter(tokenize)
    texts = list(chain.from_iterable(references))
    words = [word for text in texts for word in split(text).split()]
    letters = sum(sum(map(str.isalpha, word)) for word in words)
    for way, (script, most) in _WITHOUT_SPACES.items():
        of_script = [len(found) for word in words if (found := re.findall(script, word))]
        if 2 * sum(of_script) > letters and sum(of_script) >= most * len(of_script):
            japanese = any(re.search(f"[{_KANA}]", text) for text in texts)
            ways = "ja-mecab or --evaluation.tokenize char" if japanese else way
            return (
                "The captions are of a language that puts no spaces between words, and count as one word each: their "
                f"scores in words mean nothing. --evaluation.tokenize {ways} splits them."
            )
    return ""


def warnings(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Tokenize,
    *,
    bleu: bool,
    weightless: bool,
) -> list[str]:
    """What there is to know of scores that mean nothing, whatever the captions.

    Args:
        hypotheses: One caption for each image.
        references: Its references, one or more for each image.
        tokenize: How words were split.
        bleu: Whether it was computed, in one way or the other.
        weightless: Whether CIDEr-D was computed, and no n-gram counted in it.
    """
    told = [without_spaces(references, tokenize)]
    if len(hypotheses) == 1:
        told.append("One image: its scores tell little of others, and their intervals nothing.")
    if weightless:
        told.append(
            "CIDEr-D is 0 whatever the captions: it counts the words that tell an image's references from those of "
            "other images, and these have none. Score more images, or weigh words by the training captions of several: "
            "--evaluation.cider-corpus train."
        )
    split = splitter(tokenize)
    longest = max(len(split(text).split()) for text in hypotheses)
    if bleu and longest < 4 and not told[0]:
        told.append(f"The longest caption has {longest} words: BLEU of higher orders means nothing.")
    return [each for each in told if each]
