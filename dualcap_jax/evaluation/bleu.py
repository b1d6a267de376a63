"""Corpus BLEU by sacrebleu (Post 2018), over any number of references for each caption."""

from collections.abc import Sequence
from itertools import zip_longest

from sacrebleu.metrics import BLEU


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False
) -> dict[str, float | str]:
    """BLEU-1 to BLEU-4 of a corpus of captions, as papers report them.

    `bleu_n` is cumulative: brevity penalty times the geometric mean of the precisions of orders 1 to n, each
    counted over the whole corpus, the brevity penalty with the reference closest in length. Tokens are sacrebleu's
    13a. Where no n-gram of some order matches at all, sacrebleu's "exp" smoothing puts half a match (then a
    quarter, an eighth ...) in place of zero; without a single matching word the score is 0, as it is where no
    hypothesis is long enough to have an n-gram of that order.

    Args:
        hypotheses: One caption for each picture.
        references: Its references, one or more for each picture.
        lowercase: Ignore case.

    Returns:
        `bleu_1` .. `bleu_4`, `precision_1` .. `precision_4` (of each order alone, smoothed as BLEU-4 is), 0 to 100;
        `brevity_penalty`, 0 to 1; `signature`, sacrebleu's, of BLEU-4.

    Raises:
        ValueError: when there is nothing to score, the lengths differ, or a picture has no reference.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} lists of references")
    if not hypotheses:
        raise ValueError("no hypotheses: BLEU of nothing is undefined")
    for index, some in enumerate(references):
        if isinstance(some, str):
            raise ValueError(f"references[{index}] is the string {some!r}: give a list of strings")
        if not some:
            raise ValueError(f"references[{index}] is empty: BLEU needs a reference for {hypotheses[index]!r}")

    # [example][reference] -> [reference][example], None where an example has fewer
    streams = list(zip_longest(*references))
    metric = BLEU(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, streams)
    result: dict[str, float | str] = {}
    for order in (1, 2, 3, 4):  # the counts of order 4 hold those of the lower ones: one pass serves all
        counts = list(score.counts[:order]), list(score.totals[:order]), score.sys_len, score.ref_len
        cumulative = BLEU.compute_bleu(*counts, smooth_method=metric.smooth_method, max_ngram_order=order)
        result[f"bleu_{order}"] = cumulative.score
    for order, precision in enumerate(score.precisions, start=1):
        result[f"precision_{order}"] = precision
    result["brevity_penalty"] = score.bp
    result["signature"] = str(metric.get_signature())
    return result
