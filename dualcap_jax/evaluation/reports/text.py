"""Scores as plain text: their names, a table, a line."""

from collections.abc import Iterable

from dualcap_jax.evaluation.reports.values import Evaluation, is_number

LABELS = {
    **{f"bleu_{n}": (f"BLEU-{n}", 1) for n in (1, 2, 3, 4)},
    "brevity_penalty": ("brevity penalty of BLEU", 3),
    "chrf": ("chrF", 1),
    "ter": ("TER (less is better)", 1),
    **{f"coco_bleu_{n}": (f"COCO BLEU-{n}", 1) for n in (1, 2, 3, 4)},
    "coco_rouge_l": ("COCO ROUGE-L", 1),
    "coco_cider_d": ("COCO CIDEr-D", 1),
    "coco_meteor": ("COCO METEOR", 1),
    "coco_spice": ("COCO SPICE", 1),
    "loss": ("loss per token, nats", 3),
    "perplexity": ("perplexity per token", 2),
    "loss_all_positions": ("loss per position, padding included, nats", 3),
    "diversity_distinct_1": ("distinct-1: different words / words", 3),
    "diversity_distinct_2": ("distinct-2: different word pairs / word pairs", 3),
    "diversity_novel": ("share of captions that training did not hold", 3),
    "diversity_vocabulary": ("different words used", 0),
    "diversity_mean_words": ("mean length of a caption, words", 1),
    "diversity_shared_caption": ("share of images whose caption another has too", 3),
    "diversity_commonest_caption_images": ("images that share the commonest caption", 0),
    "character_bleu_nltk_1": ("character BLEU (NLTK on strings, as the original's), order 1", 3),
    **{f"character_bleu_nltk_{n}": (f"character BLEU, order {n}", 3) for n in (2, 3, 4)},
}
"""Name and decimals of each score, in the order that a reader looks for them."""

BRIEF = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "coco_cider_d", "loss")
"""Those that one line holds."""


def labelled(evaluation: Evaluation, keys: Iterable[str] = LABELS) -> list[tuple[str, str]]:
    """Label and value of each score that is there."""
    measures = evaluation.measures
    values = [(*LABELS[key], measures.get(key)) for key in keys]
    lines = [(label, f"{value:.{decimals}f}") for label, decimals, value in values if is_number(value)]
    return lines + [(f"{part} right, %", f"{value:.1f}") for part, value in evaluation.scenes.items()]


def head(evaluation: Evaluation) -> str:
    """What was evaluated."""
    step = "" if evaluation.step is None else f"step {evaluation.step}, "
    return f"{evaluation.split}, {step}{len(evaluation.captions)} images"


def repetition(evaluation: Evaluation) -> str:
    """A warning where many images share one caption, else nothing."""
    scores = evaluation.scores
    if not scores.get("diversity_repetitive"):
        return ""
    return (
        f"The captions repeat themselves: {scores['diversity_commonest_caption_images']} of "
        f'{len(evaluation.captions)} images were given "{scores["diversity_commonest_caption"]}". '
        "Whatever the scores, such captions tell little."
    )


def warnings(evaluation: Evaluation) -> list[str]:
    """What is to be known before the scores are believed, in sentences."""
    of_scores = evaluation.scores.get("warnings")
    return [*(of_scores if isinstance(of_scores, list) else ()), *filter(None, [repetition(evaluation)])]


def scores_table(evaluation: Evaluation) -> str:
    """The scores as an aligned table."""
    lines = labelled(evaluation)
    label_width = max((len(label) for label, _ in lines), default=0)
    value_width = max((len(value) for _, value in lines), default=0)
    table = [f"  {label:<{label_width}}  {value:>{value_width}}" for label, value in lines]
    signature = evaluation.scores.get("signature")
    notes = [f"  BLEU is sacrebleu {signature}"] if signature else []
    notes += [f"  warning: {warning}" for warning in warnings(evaluation)]
    return "\n".join([head(evaluation), *table, *notes])


def summary(evaluation: Evaluation) -> str:
    """The scores in one line."""
    return f"{evaluation.split}: " + ", ".join(f"{label} {value}" for label, value in labelled(evaluation, BRIEF))
