"""What an evaluation leaves behind: a JSON file, a report to read, and figures to look at."""

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from dualcap_jax.files import replacing, write_text

LABELS = {
    "bleu_1": ("BLEU-1", 1),
    "bleu_2": ("BLEU-2", 1),
    "bleu_3": ("BLEU-3", 1),
    "bleu_4": ("BLEU-4", 1),
    "brevity_penalty": ("brevity penalty of BLEU", 3),
    "chrf": ("chrF", 1),
    "ter": ("TER (less is better)", 1),
    "coco_bleu_1": ("COCO BLEU-1", 1),
    "coco_bleu_2": ("COCO BLEU-2", 1),
    "coco_bleu_3": ("COCO BLEU-3", 1),
    "coco_bleu_4": ("COCO BLEU-4", 1),
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
    "character_bleu_nltk_2": ("character BLEU, order 2", 3),
    "character_bleu_nltk_3": ("character BLEU, order 3", 3),
    "character_bleu_nltk_4": ("character BLEU, order 4", 3),
}
"""Name and decimals of each score, in the order that a reader looks for them."""

BRIEF = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "coco_cider_d", "loss")
"""Those that one line holds."""

SHOWN_CAPTIONS = 20
"""Captions that the Markdown report shows; the JSON file has them all."""


def write_report(directory: Path, name: str, scores: Mapping[str, Any], captions: Sequence[Mapping[str, Any]]) -> Path:
    """Write `NAME.json`, `NAME.md` and `captions_NAME_results.json` beside it, each whole or not at all.

    Args:
        directory: Where to; made if need be.
        name: Of the files, such as "validation-beam5".
        scores: What was measured: `split`, `images`, perhaps `step`, the keys of `LABELS`, `signature`, `scenes`
            (accuracies, 0 to 100); any other value JSON can hold.
        captions: One for each picture: `image_id`, `caption`, `references`, perhaps `score`.

    Returns:
        The path of the first: the scores, and the captions under `captions`. What isn't finite is null. The third holds
        the captions alone, in the format that COCO's evaluation server takes.
    """
    path = directory / f"{name}.json"
    results = [{"image_id": row["image_id"], "caption": row["caption"]} for row in captions]
    write_text(directory / f"captions_{name}_results.json", json.dumps(results) + "\n")
    write_text(path.with_suffix(".md"), _markdown(name, scores, captions))
    report = _finite({**scores, "captions": captions})
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_reports(directory: Path) -> dict[str, dict[str, Any]]:
    """The scores, without the captions, that `write_report` wrote into a directory, by name."""
    reports = {}
    for path in sorted(directory.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and "captions" in content:
            reports[path.stem] = {key: value for key, value in content.items() if key != "captions"}
    return reports


def _finite(value: Any) -> Any:
    """The value with null for the numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _lines(scores: Mapping[str, Any], keys: Iterable[str] = LABELS) -> list[tuple[str, str]]:
    """Label and value of each score that is there."""
    lines = [(LABELS[key][0], f"{scores[key]:.{LABELS[key][1]}f}") for key in keys if is_number(scores.get(key))]
    return lines + [(f"{part} right, %", f"{value:.1f}") for part, value in scores.get("scenes", {}).items()]


def _head(scores: Mapping[str, Any]) -> str:
    step = f"step {scores['step']}, " if "step" in scores else ""
    return f"{scores['split']}, {step}{scores['images']} images"


def repetition(scores: Mapping[str, Any]) -> str:
    """A warning where many images share one caption, else nothing."""
    if not scores.get("diversity_repetitive"):
        return ""
    return (
        f"The captions repeat themselves: {scores['diversity_commonest_caption_images']} of {scores['images']} images "
        f'were given "{scores["diversity_commonest_caption"]}". Whatever the scores, such captions tell little.'
    )


def scores_table(scores: Mapping[str, Any]) -> str:
    """The scores as an aligned table of plain text; its argument is that of `write_report`."""
    lines = _lines(scores)
    label_width = max((len(label) for label, _ in lines), default=0)
    value_width = max((len(value) for _, value in lines), default=0)
    table = [f"  {label:<{label_width}}  {value:>{value_width}}" for label, value in lines]
    notes = [f"  BLEU is sacrebleu {scores['signature']}"] if "signature" in scores else []
    notes += [f"  warning: {repetition(scores)}"] if repetition(scores) else []
    return "\n".join([_head(scores), *table, *notes])


def summary(scores: Mapping[str, Any]) -> str:
    """The scores in one line; its argument is that of `write_report`."""
    return f"{scores['split']}: " + ", ".join(f"{label} {value}" for label, value in _lines(scores, BRIEF))


def _markdown(name: str, scores: Mapping[str, Any], captions: Sequence[Mapping[str, Any]]) -> str:
    """The report as Markdown."""

    def cell(text: str) -> str:
        for special in "\\`*_<>|[]$":
            text = text.replace(special, "\\" + special)
        return " ".join(text.split())

    text = [f"# {cell(name)}", "", f"{_head(scores).capitalize()}.", ""]
    text += [f"**Warning:** {cell(repetition(scores))}", ""] if repetition(scores) else []
    text += ["| score | |", "| --- | ---: |", *(f"| {label} | {value} |" for label, value in _lines(scores)), ""]
    if "signature" in scores:
        text += [f"BLEU: corpus level, cumulative, sacrebleu `{scores['signature']}`.", ""]
    if captions:
        shown = captions[:SHOWN_CAPTIONS]
        text += [f"The first {len(shown)} of {len(captions)} captions:", ""]
        text += ["| image | caption | score | references |", "| --- | --- | ---: | --- |"]
        for row in shown:
            references = "<br>".join(map(cell, row["references"]))
            score = f"{row['score']:.3f}" if is_number(row.get("score")) else ""
            text.append(f"| {row['image_id']} | {cell(row['caption'])} | {score} | {references} |")
        text.append("")
    return "\n".join(text)


def samples_figure(
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    path: Path,
    *,
    columns: int = 4,
) -> None:
    """Draw pictures in a grid, each with its caption in bold and its references under it, as a PNG.

    Args:
        images: uint8 pictures; none draws nothing.
        captions: One for each.
        references: Any number for each.
        path: File to write.
        columns: Pictures beside each other.

    Raises:
        ValueError: when there are not as many captions and references as images.
    """
    if not len(images) == len(captions) == len(references):
        raise ValueError(
            f"{len(images)} images, {len(captions)} captions, {len(references)} lists of references: "
            "samples_figure needs one of each"
        )
    if not len(images):
        return
    with warnings.catch_warnings():  # a glyph that the font lacks is drawn as a box: no need to warn
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _save(_draw_samples(images, captions, references, min(columns, len(images))), path)


def _draw_samples(
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    columns: int,
) -> Figure:
    """The grid of `samples_figure`; all lengths are in points, rows as high as their longest text."""
    side, gap, large, small, line = 216.0, 18.0, 10.0, 8.0, 1.2
    bold, plain = FontProperties(weight="bold", size=large), FontProperties(size=small)
    cells = []
    for image, caption, some in zip(images, captions, references, strict=True):
        head = _wrap(caption, bold, side) or ["(no words)"]
        body = [text for reference in some for text in _wrap(f"- {reference}", plain, side)]
        cells.append((image, head, body))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [
        side + gap + 10 + max(line * (large * len(head) + small * len(body)) for _, head, body in row) for row in rows
    ]

    width, height = columns * (side + gap) + gap, sum(heights) + gap
    figure = Figure(figsize=(width / 72, height / 72))
    top = height - gap
    for row, row_height in zip(rows, heights, strict=True):
        for column, (image, head, body) in enumerate(row):
            left = gap + column * (side + gap)
            axes = figure.add_axes((left / width, (top - side) / height, side / width, side / height))
            axes.imshow(image, interpolation="bicubic")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color="0.85", linewidth=0.6)
            below = top - side - 6
            for text, font, colour in ((head, bold, "black"), (body, plain, "0.35")):
                figure.text(
                    left / width,
                    below / height,
                    "\n".join(text),
                    fontproperties=font,
                    color=colour,
                    linespacing=line,
                    va="top",
                    parse_math=False,
                )
                below -= line * large * len(head) + 4
        top -= row_height
    return figure


def _wrap(text: str, font: FontProperties, width: float) -> list[str]:
    """Break text into lines of at most `width` points; a word that is longer by itself is cut."""

    def measure(line: str) -> float:
        return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]

    lines: list[str] = []
    # A lone surrogate, which JSON can hold, has no glyph and no encoding.
    for word in text.encode("utf-8", "replace").decode().split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        while measure(word) > width:
            fits = max(n for n in range(1, len(word)) if n == 1 or measure(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines


def curves_figure(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a run's losses, BLEU and learning rate over its steps, each panel only where there is something to draw.

    Args:
        rows: Of metrics.jsonl: `step`, `split`, and any of `loss`, `loss_all_positions`, `bleu_1` .. `bleu_4`,
            `learning_rate`; a value may be missing or null.
        path: PNG file to write.
    """
    panels = {
        "loss per token, nats": ["loss"],
        "loss per position, padding included, nats": ["loss_all_positions"],
        "BLEU": [f"bleu_{order}" for order in (1, 2, 3, 4)],
        "learning rate": ["learning_rate"],
    }
    splits = list(dict.fromkeys(row["split"] for row in rows))
    curves: dict[str, list[tuple[str, list[tuple[int, float]]]]] = {}
    for title, keys in panels.items():
        for key in keys:
            for split in splits:
                points = [(r["step"], r[key]) for r in rows if r["split"] == split and is_number(r.get(key))]
                label = f"{split} {LABELS[key][0]}" if title == "BLEU" else split
                if points:
                    curves.setdefault(title, []).append((label, points))

    columns = 2 if len(curves) == 4 else max(len(curves), 1)
    lines_of_panels = max(math.ceil(len(curves) / columns), 1)
    figure = Figure(figsize=(5.2 * columns, 3.6 * lines_of_panels), layout="constrained")
    for number, (title, lines) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(lines_of_panels, columns, number)
        for label, points in lines:
            marker = "o" if len(points) <= 40 else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3.5, linewidth=1.6)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
        if title == "learning rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    if not curves:
        figure.text(0.5, 0.5, "no steps yet", ha="center", color="0.35")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG that is there as a whole or not at all."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130, facecolor="white")
