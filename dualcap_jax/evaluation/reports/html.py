"""An evaluation as one HTML page that needs nothing else: no script, no font, no request."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from dualcap_jax.evaluation.reports.curves import curves
from dualcap_jax.evaluation.reports.published import COLUMNS, ORIGINAL_CHARACTER_BLEU, PROTOCOL, PUBLISHED
from dualcap_jax.evaluation.reports.svg import plot
from dualcap_jax.evaluation.reports.text import LABELS, warnings
from dualcap_jax.evaluation.reports.values import (
    GIVEN,
    Evaluation,
    ExplainedWord,
    Score,
    ScoredCaption,
    ShownCaption,
    is_number,
)
from dualcap_jax.files import write_text

MEASURES = [key for key in LABELS if not key.startswith(("bleu_", "coco_", "character_"))]
"""Scores that stand by themselves, in no table beside others."""

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>"""

WORDS_LEGEND = """<p>Under each word: what the image added to its log-probability, in nats.
<span class="given">Bold</span>: the image gave the word (made it at least twice as likely). Plain: the language gave
it. <span class="against">Slanted</span>: the image spoke against it.</p>"""

STYLE = Path(__file__).with_name("html.css")

MISSING = "\N{EN DASH}"


def select(captions: Sequence[ScoredCaption], count: int) -> dict[str, list[ScoredCaption]]:
    """The best, the middle and the worst captions, none of them twice.

    Args:
        captions: Ranked by `cider_d` where all have it, else by `score`. What is not a finite number ranks last.
        count: How many of each; a third of the captions at most (of two: one best, one worst).

    Returns:
        Lists under "best", "median" and "worst", each from better to worse.
    """
    by_cider_d = _have_cider_d(captions)

    def place(caption: ScoredCaption) -> float:
        value = caption.cider_d if by_cider_d else caption.score
        return -value if is_number(value) else math.inf

    order = sorted(captions, key=place)
    count = min(count, max(len(order) // 3, 1))
    middle, last = (len(order) - count) // 2, len(order) - count
    return {
        "best": order[:count],
        "median": order[max(middle, count) : min(middle + count, last)],
        "worst": order[max(last, count) :],
    }


def _have_cider_d(captions: Sequence[ScoredCaption]) -> bool:
    return all(each.cider_d is not None for each in captions)


def write_html(
    path: Path,
    evaluation: Evaluation,
    shown: Mapping[str, Sequence[ShownCaption]],
    *,
    logged: Sequence[Mapping[str, Any]] = (),
    others: Sequence[Evaluation] = (),
) -> None:
    """Write the page, whole or not at all. A score that is missing is left out; one that is not finite is a dash.

    Args:
        path: File to write.
        evaluation: What the page is about.
        shown: What `select` chose, under its titles. The images are embedded as they are.
        logged: Rows of metrics.jsonl.
        others: Evaluations of the same split to compare with.
    """
    after = "" if evaluation.step is None else f", after {evaluation.step} training steps"
    parts = [
        f"<header><h1>{_text(evaluation.name)}</h1><p>{len(evaluation.captions)} images of "
        f"{_text(evaluation.dataset)}, split {_text(evaluation.split)}{after}.</p>{_warnings(evaluation)}</header>",
        "<main>",
        _main_table(evaluation),
        _character_table(evaluation),
        _measures(evaluation),
        _scenes(evaluation.scenes),
        _searches(evaluation, others),
        _curves(logged),
        _images(shown, _have_cider_d(evaluation.captions)),
    ]
    page_head = HEAD.format(title=_text(evaluation.name), style=STYLE.read_text(encoding="utf-8"))
    write_text(path, "\n".join(filter(None, [page_head, *parts, "</main></body></html>\n"])))


def _text(value: object) -> str:
    return escape(str(value))


def _number(value: object, decimals: int = 1) -> str:
    return f"{value:.{decimals}f}" if is_number(value) else MISSING


def _warnings(evaluation: Evaluation) -> str:
    lines = warnings(evaluation)
    if evaluation.split == "train":
        lines.append("These are images that the network was trained on: the scores tell nothing of others.")
    return "".join(f'<p class="warning" role="note"><strong>Warning:</strong> {_text(line)}</p>' for line in lines)


def _table(caption: str, head: Sequence[str], *groups: str) -> str:
    """A table of groups of rows in a box of its own, which scrolls where the page is narrow."""
    cells = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    bodies = "".join(f"<tbody>{rows}</tbody>" for rows in groups)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}"><table><caption><span>'
        f"{_text(caption)}</span></caption><thead><tr>{cells}</tr></thead>{bodies}</table></div>"
    )


def _row(label: str, cells: Sequence[str], own: bool = False) -> str:
    """A row of a table; the cells are HTML."""
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{" class=own" if own else ""}><th scope="row">{_text(label)}</th>{data}</tr>'


def _main_table(evaluation: Evaluation) -> str:
    """This run's scores, each way of measuring by itself, and the published ones."""
    scores, dataset = evaluation.scores, evaluation.dataset

    def own(prefix: str) -> dict[str, str]:
        cells = {}
        for column in COLUMNS:
            key = prefix + column.lower().replace("-", "_")
            if key in scores:
                cells[column] = _number(scores[key])
            if key in scores and isinstance(interval := scores.get(f"{key}_interval"), list):
                low, high = map(_number, interval)
                cells[column] += f"<small>{low} to {high}</small>"
        return cells

    published = {
        name: {column: _number(value) for column, value in zip(COLUMNS, row, strict=False) if value is not None}
        for name, row in PUBLISHED.items()
    }
    groups = {
        f"This run, {PROTOCOL}": {"This run": own("coco_")},
        f"This run, sacrebleu {scores.get('signature', '')}": {"This run": own("")},
        f"Published, COCO's Karpathy test split, {PROTOCOL}": published,
    }
    columns = [c for c in COLUMNS if any(c in row for rows in groups.values() for row in rows.values())]
    bodies = [
        f'<tr><th class="group" scope="rowgroup" colspan="{len(columns) + 1}"><span>{_text(title)}</span></th></tr>'
        + "".join(_row(name, [row.get(c, MISSING) for c in columns], name == "This run") for name, row in rows.items())
        for title, rows in groups.items()
        if any(rows.values())
    ]
    notes = ["Figures compare within one protocol only; CIDEr-D is given times 100, as papers do."]
    if not dataset.casefold().startswith("coco"):
        notes.append(f"The published figures are of other images, COCO's (this run's: {dataset}): orientation only.")
    elif "karpathy test" not in dataset.casefold():
        notes.append(f"The published figures are of COCO's Karpathy test split, this run's of {dataset}.")
    if any(key.endswith("_interval") for key in scores):
        notes.append("Below a score: what 95% of such sets of images would give (bootstrap).")
    text = "".join(f"<p>{_text(note)}</p>" for note in notes)
    return f"<h2>Scores</h2>{text}" + _table("Scores beside published ones", ["system", *columns], *bodies)


def _character_table(evaluation: Evaluation) -> str:
    scores = evaluation.scores
    keys = [f"character_bleu_nltk_{order}" for order in (1, 2, 3, 4)]
    if not any(key in scores for key in keys):
        return ""
    rows = _row("This run", [_number(scores.get(key), 3) for key in keys], own=True)
    rows += _row("The report on the original, COCO val2017", [_number(value, 3) for value in ORIGINAL_CHARACTER_BLEU])
    return (
        "<h2>BLEU as the original's report measured it</h2><p>This compares with nothing but itself: NLTK's sentence "
        "BLEU was given strings, so that it counts n-grams of characters instead of words, each order alone instead of "
        "all up to it, averaged over sentences.</p>"
        + _table("Character BLEU, NLTK, 0 to 1", ["system", "order 1", "order 2", "order 3", "order 4"], rows)
    )


def _measures(evaluation: Evaluation) -> str:
    measures = evaluation.measures
    rows = [_row(LABELS[key][0], [_number(measures[key], LABELS[key][1])]) for key in MEASURES if key in measures]
    return "<h2>Other measures</h2>" + _table("Loss and language", ["measure", "value"], "".join(rows)) if rows else ""


def _scenes(accuracies: Mapping[str, float]) -> str:
    rows = ""
    for part, value in accuracies.items():
        bar = f' <meter min="0" max="100" value="{value:.1f}"></meter>' if is_number(value) else ""
        rows += _row(part, [_number(value) + bar])
    return "<h2>What was told right</h2>" + _table("Captions right in a part, %", ["part", "%"], rows) if rows else ""


def _searches(evaluation: Evaluation, others: Sequence[Evaluation]) -> str:
    """Table of evaluations that differ in the search, those with fewer beams first."""
    if not others:
        return ""
    evaluations = sorted(
        [*others, evaluation], key=lambda each: re.sub("[0-9]+", lambda number: number[0].zfill(9), each.name)
    )
    columns: dict[str, list[Score]] = {
        "BLEU-4": [each.scores.get("bleu_4") for each in evaluations],
        "CIDEr-D": [each.scores.get("coco_cider_d") for each in evaluations],
        "step": [each.step for each in evaluations],
    }
    columns = {title: values for title, values in columns.items() if values != [None] * len(values)}
    rows = ""
    for number, each in enumerate(evaluations):
        cells = [_number(values[number], 0 if title == "step" else 1) for title, values in columns.items()]
        rows += _row(each.name, cells, own=each is evaluation)
    title = "Evaluations of this split (BLEU-4 by sacrebleu); in bold: this page's"
    return "<h2>Searches compared</h2>" + _table(title, ["search", *columns], rows)


def _curves(logged: Sequence[Mapping[str, Any]]) -> str:
    panels = curves(logged, ("loss", "learning_rate"))
    plots = "".join(plot(title.capitalize(), lines) for title, lines in panels.items())
    return f'<h2>Training</h2><div class="grid">{plots}</div>' if plots else ""


def _images(shown: Mapping[str, Sequence[ShownCaption]], by_cider_d: bool) -> str:
    all_shown = [each for group in shown.values() for each in group]
    if not all_shown:
        return ""
    how = "the network's own score, log-probability for its length: how sure it was, not how right"
    html = f"<h2>Images</h2><p>Ranked by {'CIDEr-D' if by_cider_d else how}.</p>"
    html += WORDS_LEGEND if any(each.words for each in all_shown) else ""
    for title, group in shown.items():
        if group:
            cards = "".join(map(_card, group))
            html += f'<section><h3>{title.capitalize()}</h3><div class="grid cards">{cards}</div></section>'
    return html


def _card(shown: ShownCaption) -> str:
    """An image with its caption, scores and references."""
    row, file = shown.caption, io.BytesIO()
    Image.fromarray(shown.image).save(file, "JPEG", quality=88)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    caption = " ".join(map(_word, shown.words)) or _text(row.caption) or "(no words)"
    score = "" if row.score is None else f", score {_number(row.score, 3)}"
    cider = "" if row.cider_d is None else f", CIDEr-D {_number(row.cider_d)}"
    references = "".join(f"<li><bdi>{_text(reference)}</bdi></li>" for reference in row.references)
    alt = row.references[0] if row.references else f"image {row.image_id}"
    return (
        f'<figure><img src="{source}" alt="{_text(alt)}"><figcaption><p class="caption" dir="auto">{caption}</p>'
        f'<p class="soft">Image {row.image_id}{score}{cider}</p>'
        + (f'<ul class="references">{references}</ul>' if references else "")
        + "</figcaption></figure>"
    )


def _word(word: ExplainedWord) -> str:
    seen = word.seen if is_number(word.seen) else 0.0
    look = ' class="given"' if seen >= GIVEN else ' class="against"' if seen <= -GIVEN else ""
    added = f"{seen:+z.1f}" if is_number(word.seen) else MISSING
    hint = f"log-probability {_number(word.log_prob, 2)} nats, of which the image added {added}"
    return f'<span class="word" title="{hint}"><span{look}>{_text(word.text)}</span><small>{added}</small></span>'
