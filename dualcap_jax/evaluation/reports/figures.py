"""Figures to look at: images with their captions, and a run's curves."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from dualcap_jax.evaluation.reports.curves import curves
from dualcap_jax.evaluation.reports.values import ShownCaption
from dualcap_jax.files import replacing


def samples_figure(shown: Sequence[ShownCaption], path: Path, *, columns: int = 4) -> None:
    """Draw images in a grid, each with its caption in bold and its references under it, as a PNG.

    Args:
        shown: What is drawn; where there is none, no file is written.
        path: File to write.
        columns: Images beside each other.
    """
    if not shown:
        return
    with warnings.catch_warnings():  # a glyph that the font lacks is drawn as a box: no need to warn
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _save(_draw_samples(shown, min(columns, len(shown))), path)


def _draw_samples(shown: Sequence[ShownCaption], columns: int) -> Figure:
    """The grid of `samples_figure`; all lengths are in points, rows as high as their longest text."""
    side, gap, large, small, line = 216.0, 18.0, 10.0, 8.0, 1.2
    bold, plain = FontProperties(weight="bold", size=large), FontProperties(size=small)
    cells = []
    for each in shown:
        head = _wrap(each.caption.caption, bold, side) or ["(no words)"]
        body = [text for reference in each.caption.references for text in _wrap(f"- {reference}", plain, side)]
        cells.append((each.image, head, body))
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
    """Draw a run's losses and learning rate over its steps, each panel only where there is something to draw.

    Args:
        rows: As for `curves`.
        path: PNG file to write.
    """
    panels = curves(rows)
    figure = Figure(figsize=(5.2 * max(len(panels), 1), 3.6), layout="constrained")
    for number, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for label, points in lines.items():
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
    if not panels:
        figure.text(0.5, 0.5, "no steps yet", ha="center", color="0.35")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG that is there as a whole or not at all."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130, facecolor="white")
