"""Captions for a terminal, or for what reads the lines of one."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from dualcap_jax.bulk.captioning import Reader, announced, printable, row_of
from dualcap_jax.bulk.inputs import Item, Told, content_of
from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.evaluation.reports.values import GIVEN
from dualcap_jax.explain.maps import overlay
from dualcap_jax.explain.words import WordError, find_word


def coloured(caption: Caption, terminal: bool) -> str:
    """A caption's words: green where the image made them likelier, or each with what it added."""
    if not terminal:
        return " ".join(f"{word.text}({word.seen:+.1f})" for word in caption.words)
    return " ".join(f"\033[32m{word.text}\033[0m" if word.seen > GIVEN else word.text for word in caption.words)


def render(item: Item, caption: Caption, form: str, terminal: bool = False) -> str:
    """One line of output for each caption of an image, or one for the image."""
    if form == "text":
        name = printable(str(item))
        texts = (coloured(each, terminal) if each.words else each.text for each in (caption, *caption.others))
        return "\n".join(f"{name}\t{text}" for text in texts)
    row = row_of(item, caption)
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(row)
    return line


class Maps:
    """Maps of one word, and where they are written."""

    def __init__(self, captioner: Captioner, word: str, directory: Path, by: Literal["gradient", "attention"]):
        self._captioner, self._word, self._directory = captioner, word, directory
        self._map = {"gradient": captioner.grad_cam, "attention": captioner.attention_map}[by]
        self._written: Counter[str] = Counter()

    def write(self, item: Item, caption: Caption) -> None:
        """Write those of one image.

        Raises:
            WordError: when the caption does not hold the word.
        """
        places = find_word(caption.text, self._word)
        self._directory.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[/\\]", "_", f"{Path(str(item)).stem}.{self._word}")
        content = content_of(item)
        for place in places:
            self._written[name] += 1
            number = self._written[name]  # above 1: the word again, or an image of this name in another folder
            file = self._directory / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            heatmap = self._map(content, caption, place)
            overlay(self._captioner.prepare(content), heatmap).save(file)


def print_captions(
    captioner: Captioner,
    captions: Callable[[Iterable[np.ndarray]], Iterator[Caption]],
    items: Iterable[Item],
    fail: Told,
    form: Literal["text", "jsonl"],
    maps: Maps | None = None,
) -> None:
    """Print captions as they come, and draw maps.

    Args:
        captioner: whose transform the images go through.
        captions: captions images of the network's size, as they come.
        items: the images.
        fail: takes the name of one that can't be read or drawn, and the reason.
        form: of the lines.
        maps: draws them; None: no maps.
    """
    reader = Reader(items, captioner, fail)
    terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for found in announced(captions(reader)):
        item = reader.read.popleft()
        print(render(item, found, form, terminal), flush=True)
        if maps:
            try:
                maps.write(item, found)
            except WordError as error:
                fail(str(item), str(error))
            except OSError as error:
                fail(str(item), f"no map of it: {error.filename}: {error.strerror or error}")
