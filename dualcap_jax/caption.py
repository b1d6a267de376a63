"""Caption images: python -m dualcap_jax.caption WORKDIR IMAGE_OR_FOLDER... [--num-beams 5] [--format jsonl]."""

import json
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from dualcap_jax import cli
from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.config import load_run
from dualcap_jax.data.folders import find_images, read_file
from dualcap_jax.data.reading import ImagesConfig, part
from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.evaluation.reports.values import GIVEN
from dualcap_jax.explain.maps import overlay
from dualcap_jax.explain.words import WordError, find_word
from dualcap_jax.training.checkpoints import Which


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str]
    """Run directory that `python -m dualcap_jax.train` wrote."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files, and folders whose images are taken, those in folders below too."""
    format: Literal["text", "jsonl"] = "text"
    """text: path, tab, caption. jsonl: one JSON object a line, with scores."""
    explain: bool = False
    """Show how much of each word the image gave, in nats: what it adds to the word's log-probability with an average
    image. On a terminal the words that it gave are green."""
    map: str = ""
    """A word. For each time that an image's caption holds it, write the image under a map of the places that speak for
    the word."""
    map_by: Literal["gradient", "attention"] = "gradient"
    """How those places are found. gradient: Grad-CAM. attention: where the merger looked, of a run with
    model.merger.kind attention."""
    map_dir: Path = Path("maps")
    """Folder that these are written to as IMAGE.WORD.png."""
    checkpoint: Which = "best"
    """best (by validation) or latest."""
    data: ImagesConfig = field(default_factory=ImagesConfig)
    """Which images are read; the run's own settings unless changed."""
    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")] = field(default_factory=DecodingConfig)
    """How captions are searched for; the run's own settings unless changed."""


class Images:
    """The images that were asked for; what cannot be read is told and passed over."""

    def __init__(self, names: Sequence[str], transform: ImageTransform):
        self._names, self._transform = names, transform
        self.failed = 0
        self.read: deque[tuple[Path, bytes]] = deque()
        """Path and content of the images read and not yet captioned."""

    def _paths(self) -> Iterator[Path]:
        for path in map(Path, self._names):
            if not os.path.isdir(path):  # never raises: what is wrong is told when the file is read
                yield path
                continue
            found = find_images(path)
            for folder, reason in found.unreadable:
                self.fail(folder, f"{reason}: its images are left out")
            if not found.images:
                self.fail(path, f"no images in this folder{found.summary and f' ({found.summary})'}")
            elif found.summary:
                print(f"{path}: {found.summary}", file=sys.stderr)
            yield from found.images

    def fail(self, path: Path, reason: object) -> None:
        """Tell what is wrong with an image."""
        print(f"{printable(path)}: {reason}", file=sys.stderr)
        self.failed += 1

    def __iter__(self) -> Iterator[np.ndarray]:
        for path in self._paths():
            try:
                content = read_file(path)
                image = self._transform.decode(content, str(path))
            except (OSError, ValueError) as error:  # ValueError: no image, or a name that no file can have
                self.fail(path, getattr(error, "strerror", None) or error)
            else:
                self.read.append((path, content))
                yield image


def coloured(caption: Caption, terminal: bool) -> str:
    """A caption's words: green where the image made them likelier, or each with what it added."""
    if not terminal:
        return " ".join(f"{word.text}({word.seen:+.1f})" for word in caption.words)
    return " ".join(f"\033[32m{word.text}\033[0m" if word.seen > GIVEN else word.text for word in caption.words)


def as_json(caption: Caption) -> dict[str, Any]:
    """What is printed of a caption as JSON."""
    words = [
        {"word" if name == "text" else name: value for name, value in vars(word).items()} | {"seen": word.seen}
        for word in caption.words
    ]
    values = {"caption": caption.text, "score": caption.score, "log_prob": caption.log_prob}
    return values | ({"words": words} if words else {})


def render(path: Path, caption: Caption, form: str, terminal: bool = False) -> str:
    """One line of output for each caption of an image, or one for the image."""
    all_captions = (caption, *caption.others)
    if form == "text":
        return "\n".join(f"{printable(path)}\t{coloured(c, terminal) if c.words else c.text}" for c in all_captions)
    values = [as_json(c) for c in all_captions]
    others = {"others": values[1:]} if values[1:] else {}
    whole = {"image": str(path), **values[0], **others}
    line = json.dumps(whole, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(whole)
    return line


def printable(path: Path) -> str:
    """A path for a line of text: what no terminal shows, such as a line's end or a byte that is no UTF-8, escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(path))


class Maps:
    """Maps of one word, and where they are written."""

    def __init__(self, captioner: Captioner, word: str, directory: Path, by: Literal["gradient", "attention"]):
        self._captioner, self._word, self._directory = captioner, word, directory
        self._map = {"gradient": captioner.grad_cam, "attention": captioner.attention_map}[by]
        self._written: Counter[str] = Counter()

    def write(self, path: Path, content: bytes, caption: Caption) -> None:
        """Write those of one image.

        Raises:
            WordError: when the caption does not hold the word.
        """
        places = find_word(caption.text, self._word)
        self._directory.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[/\\]", "_", f"{path.stem}.{self._word}")
        for place in places:
            self._written[name] += 1
            number = self._written[name]  # above 1: the word again, or an image of this name in another folder
            file = self._directory / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            heatmap = self._map(content, caption, place)
            overlay(self._captioner.prepare(content), heatmap).save(file)


def main(args: Sequence[str]) -> int:
    """Caption images; returns 1 where some could not be read, or a caption lacks the word to map, else 0."""
    description = "Caption images with a trained run."
    _, others = cli.first(Arguments, args)
    default = None
    if others:
        run = load_run(others[0])
        default = Arguments(others[0], decoding=run.decoding, data=part(ImagesConfig, run.data))
    arguments = cli.parse(Arguments, args, "caption", description, default)
    if not arguments.images:
        raise ConfigError("no image given: name image files, or folders of them, after the run directory")
    captioner = Captioner.load(arguments.workdir, arguments.checkpoint)

    config = captioner.config
    captioner.config = replace(config, data=replace(config.data, **asdict(arguments.data)))
    images = Images(arguments.images, captioner.config.data.transform)
    terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    maps = Maps(captioner, arguments.map, arguments.map_dir, arguments.map_by)
    with cli.naming_memory(arguments.decoding.less_memory):
        for caption in captioner.caption_prepared(images, arguments.decoding, arguments.explain):
            path, content = images.read.popleft()
            print(render(path, caption, arguments.format, terminal), flush=True)
            if arguments.map:
                try:
                    maps.write(path, content, caption)
                except WordError as error:
                    images.fail(path, error)
                except OSError as error:
                    images.fail(path, f"no map of it: {error.filename}: {error.strerror or error}")
    return 1 if images.failed else 0


if __name__ == "__main__":
    cli.run(main)
