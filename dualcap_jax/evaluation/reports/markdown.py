"""An evaluation as Markdown."""

from dualcap_jax.evaluation.reports.text import head, labelled, warnings
from dualcap_jax.evaluation.reports.values import Evaluation, ScoredCaption, is_number

SHOWN_CAPTIONS = 20
"""Captions that are shown; the JSON file has them all."""


def markdown(evaluation: Evaluation) -> str:
    """The scores and the first captions."""
    signature = evaluation.scores.get("signature")
    text = [f"# {_cell(evaluation.name)}", "", f"{head(evaluation).capitalize()}.", ""]
    text += [line for warning in warnings(evaluation) for line in (f"**Warning:** {_cell(warning)}", "")]
    text += ["| score | |", "| --- | ---: |", *(f"| {label} | {value} |" for label, value in labelled(evaluation)), ""]
    text += [f"BLEU: corpus level, cumulative, sacrebleu `{signature}`.", ""] if signature else []
    if shown := evaluation.captions[:SHOWN_CAPTIONS]:
        text += [f"The first {len(shown)} of {len(evaluation.captions)} captions:", ""]
        text += ["| image | caption | score | references |", "| --- | --- | ---: | --- |", *map(_row, shown), ""]
    return "\n".join(text)


def _row(caption: ScoredCaption) -> str:
    score = f"{caption.score:.3f}" if is_number(caption.score) else ""
    references = "<br>".join(map(_cell, caption.references))
    return f"| {caption.image_id} | {_cell(caption.caption)} | {score} | {references} |"


def _cell(text: str) -> str:
    for special in "\\`*_<>|[]$":
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())
