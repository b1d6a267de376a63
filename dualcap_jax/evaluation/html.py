"""An evaluation as one HTML page that needs nothing else: no script, no font, no request."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dualcap_jax.evaluation.published import COLUMNS, ORIGINAL_CHARACTER_BLEU, PROTOCOL, PUBLISHED
from dualcap_jax.evaluation.report import LABELS, is_number, repetition
from dualcap_jax.evaluation.svg import plot
from dualcap_jax.files import write_text

MEASURES = [key for key in LABELS if not key.startswith(("bleu_", "coco_", "character_"))]
"""Scores that stand by themselves, in no table beside others."""

PANELS = {
    "Loss per token, nats": ["loss"],
    "BLEU": ["bleu_1", "bleu_2", "bleu_3", "bleu_4"],
    "Learning rate": ["learning_rate"],
}

GIVEN = 0.7
"""Nats from which on the picture counts as what gave a word: it made it twice as likely."""

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>"""

WORDS_LEGEND = """<p>Under each word: what the picture added to its log-probability, in nats.
<span class="given">Bold</span>: the picture gave the word (made it at least twice as likely). Plain: the language gave
it. <span class="against">Slanted</span>: the picture spoke against it.</p>"""

STYLE = Path(__file__).with_name("html.css")

MISSING = "\N{EN DASH}"


def select(captions: Sequence[Mapping[str, Any]], count: int) -> dict[str, list[Mapping[str, Any]]]:
    """The best, the middle and the worst captions, none of them twice.

    Args:
        captions: Each with `score`; ranked by `cider_d` where all have it, else by `score`. What is not a finite number
            ranks last.
        count: How many of each; a third of the captions at most (of two: one best, one worst).

    Returns:
        Lists under "best", "median" and "worst", each from better to worse.
    """
    key = _ranked_by(captions)
    order = sorted(captions, key=lambda row: -row[key] if is_number(row.get(key)) else math.inf)
    count = min(count, max(len(order) // 3, 1))
    middle, last = (len(order) - count) // 2, len(order) - count
    return {
        "best": order[:count],
        "median": order[max(middle, count) : min(middle + count, last)],
        "worst": order[max(last, count) :],
    }


def write_html(
    path: Path,
    name: str,
    scores: Mapping[str, Any],
    captions: Sequence[Mapping[str, Any]],
    *,
    dataset: str,
    pictures: Mapping[Any, UInt8[np.ndarray, "height width 3"]],
    curves: Sequence[Mapping[str, Any]] = (),
    sweep: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the page, whole or not at all. A score that is missing is left out; one that is not finite is a dash.

    Args:
        path: File to write.
        name: Of the evaluation, such as "validation-beam5".
        scores: As for `write_report`, perhaps with `bleu_1_interval` .. ([low, high]).
        captions: As for `write_report`; perhaps `cider_d` (0 to 1000), and `words`: each with `word`, `log_prob` and
            `seen`, in nats.
        dataset: What the pictures are of, in words; begins with "COCO" where they are COCO's, and holds "Karpathy test"
            where they are that split.
        pictures: By image_id, those to be shown: what `select` chose. They are embedded as they are.
        curves: Rows of metrics.jsonl.
        sweep: Scores of other evaluations of the same split by name, such as "validation-beam64".

    Raises:
        ValueError: a picture is not uint8 [height, width, 3].
    """
    after = f", after {_text(scores['step'])} training steps" if "step" in scores else ""
    parts = [
        f"<header><h1>{_text(name)}</h1><p>{_text(scores['images'])} images of {_text(dataset)}, split "
        f"{_text(scores['split'])}{after}.</p>{_warnings(scores)}</header>",
        "<main>",
        _main_table(scores, dataset),
        _character_table(scores),
        _measures(scores),
        _scenes(scores.get("scenes") or {}),
        _sweep({**(sweep or {}), name: scores}, name),
        _curves(curves),
        _pictures([row for row in captions if row["image_id"] in pictures], pictures),
    ]
    head = HEAD.format(title=_text(name), style=STYLE.read_text(encoding="utf-8"))
    write_text(path, "\n".join(filter(None, [head, *parts, "</main></body></html>\n"])))


def _text(value: object) -> str:
    return escape(str(value))


def _number(value: Any, decimals: int = 1) -> str:
    return f"{value:.{decimals}f}" if is_number(value) else MISSING


def _warnings(scores: Mapping[str, Any]) -> str:
    lines = []
    if repetition(scores):
        lines.append(repetition(scores))
    if scores["split"] == "train":
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


def _main_table(scores: Mapping[str, Any], dataset: str) -> str:
    """This run's scores, each way of measuring by itself, and the published ones."""

    def own(prefix: str) -> dict[str, str]:
        cells = {}
        for column in COLUMNS:
            key = prefix + column.lower().replace("-", "_")
            if key in scores:
                cells[column] = _number(scores[key])
            if key in scores and scores.get(f"{key}_interval"):
                low, high = (_number(end) for end in scores[f"{key}_interval"])
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
        notes.append(f"The published figures are of other pictures, COCO's (this run's: {dataset}): orientation only.")
    elif "karpathy test" not in dataset.casefold():
        notes.append(f"The published figures are of COCO's Karpathy test split, this run's of {dataset}.")
    if any(key.endswith("_interval") for key in scores):
        notes.append("Below a score: what 95% of such sets of images would give (bootstrap).")
    text = "".join(f"<p>{_text(note)}</p>" for note in notes)
    return f"<h2>Scores</h2>{text}" + _table("Scores beside published ones", ["system", *columns], *bodies)


def _character_table(scores: Mapping[str, Any]) -> str:
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


def _measures(scores: Mapping[str, Any]) -> str:
    rows = [_row(LABELS[key][0], [_number(scores[key], LABELS[key][1])]) for key in MEASURES if key in scores]
    return "<h2>Other measures</h2>" + _table("Loss and language", ["measure", "value"], "".join(rows)) if rows else ""


def _scenes(accuracies: Mapping[str, float]) -> str:
    rows = ""
    for part, value in accuracies.items():
        bar = f' <meter min="0" max="100" value="{value:.1f}"></meter>' if is_number(value) else ""
        rows += _row(part, [_number(value) + bar])
    return "<h2>What was told right</h2>" + _table("Captions right in a part, %", ["part", "%"], rows) if rows else ""


def _sweep(evaluations: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Table of evaluations that differ in the search, those with fewer beams first."""
    if len(evaluations) < 2:
        return ""
    columns = [("BLEU-4", "bleu_4", 1), ("CIDEr-D", "coco_cider_d", 1), ("step", "step", 0)]
    columns = [column for column in columns if any(column[1] in scores for scores in evaluations.values())]
    rows = ""
    for each in sorted(evaluations, key=lambda each: re.sub("[0-9]+", lambda number: number[0].zfill(9), each)):
        cells = [_number(evaluations[each].get(key), decimals) for _, key, decimals in columns]
        rows += _row(each, cells, own=each == name)
    title = "Evaluations of this split (BLEU-4 by sacrebleu); in bold: this page's"
    return "<h2>Searches compared</h2>" + _table(title, ["search", *(column[0] for column in columns)], rows)


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
    plots = ""
    for title, keys in PANELS.items():
        lines = {}
        for split in dict.fromkeys(row["split"] for row in rows):
            for key in keys:
                points = [(r["step"], r[key]) for r in rows if r["split"] == split and is_number(r.get(key))]
                if points:
                    lines[f"{split} {LABELS[key][0]}" if len(keys) > 1 else split] = points
        plots += plot(title, lines) if lines else ""
    return f'<h2>Training</h2><div class="grid">{plots}</div>' if plots else ""


def _ranked_by(captions: Sequence[Mapping[str, Any]]) -> str:
    return "cider_d" if all("cider_d" in row for row in captions) else "score"


def _pictures(shown: Sequence[Mapping[str, Any]], pictures: Mapping[Any, np.ndarray]) -> str:
    if not shown:
        return ""
    how = "the network's own score, log-probability for its length: how sure it was, not how right"
    html = f"<h2>Pictures</h2><p>Ranked by {'CIDEr-D' if _ranked_by(shown) == 'cider_d' else how}.</p>"
    html += WORDS_LEGEND if any(row.get("words") for row in shown) else ""
    for title, rows in select(shown, len(shown)).items():
        if rows:
            cards = "".join(_card(row, pictures[row["image_id"]]) for row in rows)
            html += f'<section><h3>{title.capitalize()}</h3><div class="grid cards">{cards}</div></section>'
    return html


def _card(row: Mapping[str, Any], picture: np.ndarray) -> str:
    """A picture with its caption, scores and references."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture {row['image_id']}: {picture.dtype} {picture.shape}, not uint8 [height, width, 3]")
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=88)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    caption = " ".join(map(_word, row["words"])) if row.get("words") else _text(row["caption"]) or "(no words)"
    score = f", score {_number(row['score'], 3)}" if "score" in row else ""
    cider = f", CIDEr-D {_number(row['cider_d'])}" if "cider_d" in row else ""
    references = "".join(f"<li><bdi>{_text(reference)}</bdi></li>" for reference in row["references"])
    alt = row["references"][0] if row["references"] else f"picture {row['image_id']}"
    return (
        f'<figure><img src="{source}" alt="{_text(alt)}"><figcaption><p class="caption" dir="auto">{caption}</p>'
        f'<p class="soft">Image {_text(row["image_id"])}{score}{cider}</p>'
        + (f'<ul class="references">{references}</ul>' if references else "")
        + "</figcaption></figure>"
    )


def _word(word: Mapping[str, Any]) -> str:
    seen = word["seen"] if is_number(word["seen"]) else 0.0
    look = ' class="given"' if seen >= GIVEN else ' class="against"' if seen <= -GIVEN else ""
    added = f"{seen:+z.1f}" if is_number(word["seen"]) else MISSING
    hint = f"log-probability {_number(word['log_prob'], 2)} nats, of which the picture added {added}"
    return f'<span class="word" title="{hint}"><span{look}>{_text(word["word"])}</span><small>{added}</small></span>'
