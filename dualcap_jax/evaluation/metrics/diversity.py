"""How much a captioner's captions differ from each other and from those it was trained on."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from dualcap_jax.evaluation.metrics.ptb import tokenize


def diversity(hypotheses: Sequence[str], training_captions: Iterable[str] | None = None) -> dict[str, Any]:
    """Tell a captioner that looks from one that says the same of every image.

    Captions are compared by their words as `ptb.tokenize` gives them: case and punctuation make no difference.

    Args:
        hypotheses: One caption for each image.
        training_captions: All captions trained on, if novelty is to be told.

    Returns:
        `distinct_1` and `distinct_2`: different words and pairs of words, in parts of all (Li et al. 2016), 0 to 1;
        `novel`: share of captions that are no training caption, None without those; `vocabulary`: number of
        different words; `mean_words`: words in a caption; `commonest_caption` and `commonest_caption_images`: how
        many images share it; `shared_caption`: share of images whose caption another has too; `repetitive`: whether
        more than half of the images, and more than one, share one caption.

    Raises:
        ValueError: when there are no captions.
    """
    if not hypotheses:
        raise ValueError("no hypotheses: the diversity of nothing is undefined")
    captions = [tuple(tokenize(hypothesis)) for hypothesis in hypotheses]
    words = Counter(word for caption in captions for word in caption)
    pairs = Counter(pair for caption in captions for pair in pairwise(caption))
    images = Counter(captions)
    commonest, commonest_images = images.most_common(1)[0]
    novel = None
    if training_captions is not None:
        keys = set(map(_key, hypotheses))
        trained_on = {
            tuple(tokenize(caption)) for caption in {each for each in training_captions if _key(each) in keys}
        }
        unseen = set(captions) - trained_on
        novel = sum(images[caption] for caption in unseen) / len(captions)
    return {
        "distinct_1": len(words) / max(1, words.total()),
        "distinct_2": len(pairs) / max(1, pairs.total()),
        "novel": novel,
        "vocabulary": len(words),
        "mean_words": words.total() / len(captions),
        "commonest_caption": " ".join(commonest),
        "commonest_caption_images": commonest_images,
        "shared_caption": sum(count for count in images.values() if count > 1) / len(captions),
        "repetitive": commonest_images > max(1, len(captions) / 2),
    }


def _key(caption: str) -> str:
    """Its letters and digits, equal where the words are: quicker than to tokenize all that was trained on."""
    return "".join(filter(str.isalnum, caption.casefold()))
