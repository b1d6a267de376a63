"""The captions of a split, made or read from a file; their scores; and the reports of both."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dualcap_jax.captioner import Captioner
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.images import decode_image
from dualcap_jax.data.pipeline import eval_batches
from dualcap_jax.data.prepared.reader import PARTS, PUBLISHED, find_prepared
from dualcap_jax.data.records import DataError, Record, Source
from dualcap_jax.data.scenes.grading import accuracies
from dualcap_jax.data.sources import open_source
from dualcap_jax.data.sources.scenes import ScenesSource
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.evaluation.html import select, write_html
from dualcap_jax.evaluation.metrics import check_metrics, score_captions
from dualcap_jax.evaluation.report import read_reports, samples_figure, write_report
from dualcap_jax.files import write_text
from dualcap_jax.training.logs import read_json_lines
from dualcap_jax.training.step import make_eval_step, mean_losses

COCO_NAME = re.compile(r"\d{12}\.jpg")
"""Of COCO 2017's pictures."""

SHOWN = 6
"""Pictures that the page shows of the best, the median and the worst each."""

SHOWN_SIDE = 380
"""Pixels that their longer side has at most."""


def evaluate(
    captioner: Captioner,
    workdir: Path,
    split: str,
    decoding: DecodingConfig | None = None,
    evaluation: EvaluationConfig | None = None,
) -> tuple[dict[str, Any], Path]:
    """Caption a split, score the captions, and write the reports into the run directory.

    Interrupted, it goes on where it was when called again with the same settings.

    Args:
        captioner: the run's.
        workdir: the run directory.
        split: of the run's data.
        decoding: settings of the search; None: the run's.
        evaluation: what is scored; None: the run's.

    Returns:
        The scores (see README, "Evaluate") and the path of the JSON file written.

    Raises:
        DataError: there is no such split, or a fault in it; or the training split is needed and not there.
        MetricError: a metric lacks what it runs on.
    """
    config = captioner.config
    decoding, evaluation = decoding or config.decoding, evaluation or config.evaluation
    source = open_source(config.data, split)
    directory, name = workdir / "evaluation", f"{split}-{decoding.name(config.decoding)}"
    progress = directory / f"{name}.progress.jsonl"
    check_metrics(evaluation)
    if evaluation.cider_corpus == "train":
        open_source(config.data, "train")  # that it is there is known before the work
    rows, losses = caption_split(captioner, source, decoding, progress)
    head = {"split": split, "step": captioner.step, "decoding": asdict(decoding)} | losses
    scores, path = report(directory, name, head, rows, source, config.data, evaluation, captioner)
    progress.unlink()
    if source.faults.skipped:
        print(source.faults.summary())
    return scores, path


def caption_split(
    captioner: Captioner, source: Source, decoding: DecodingConfig, progress: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Caption every image of a source, and compute the losses on its references.

    Args:
        captioner: makes the captions.
        source: the images.
        decoding: settings of the search.
        progress: file that each batch is added to as it is done; what it holds of the same captioner with the same
            settings is not done again.

    Returns:
        Of each image `image_id`, `caption` and `score`; and both losses, in nats, with `perplexity`.
    """
    data = captioner.config.data
    about = {"step": captioner.step, "decoding": asdict(decoding), "data": asdict(data)}
    header = json.loads(json.dumps(about))
    done = read_json_lines(progress)
    done = done[1:] if done[:1] == [header] else []
    captions = list(chain.from_iterable(batch["captions"] for batch in done))
    start = _place_after(source, captions[-1]["image_id"], len(captions)) if captions else 0

    write_text(progress, "".join(json.dumps(line) + "\n" for line in (header, *done)))
    eval_step = make_eval_step(captioner.config.model)
    with progress.open("a", buffering=1) as file, tqdm(total=len(source), unit="image", disable=None) as bar:
        bar.update(start)
        for batch in eval_batches(source, captioner.tokenizer, data, decoding.batch_size, start):
            sums = {name: float(value) for name, value in eval_step(captioner.model, batch).items()}
            real = batch["image_id"] >= 0
            made = captioner.caption_prepared(batch["image"][real], decoding, first=len(captions))
            new = [
                {"image_id": image_id, "caption": caption.text, "score": caption.score}
                for image_id, caption in zip(batch["image_id"][real].tolist(), made, strict=True)
            ]
            captions += new
            done.append({"captions": new, "losses": sums})
            file.write(json.dumps(done[-1]) + "\n")
            bar.update(len(new))
    losses = mean_losses({name: sum(batch["losses"][name] for batch in done) for name in done[0]["losses"]})
    return captions, losses | {"perplexity": math.exp(losses["loss"])}


def _place_after(source: Source, image_id: int, least: int) -> int:
    """The place after an image's, which is `least` or, where images before it could not be read, more."""
    return next(place for place in range(least, len(source) + 1) if source[place - 1].image_id == image_id)


def read_captions(path: Path, source: Source) -> list[dict[str, Any]]:
    """The captions of any system, in COCO's results format, in the order of a source's images.

    Args:
        path: a JSON list of `{"image_id": 42, "caption": "A dog."}`, one for each image of the source.
        source: the images.

    Raises:
        DataError: the file is no such list, or not of just these images.
    """
    try:
        entries = json.loads(path.read_bytes())
        captions = [(int(entry["image_id"]), str(entry["caption"])) for entry in entries]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'{path}: not captions in COCO\'s results format, [{{"image_id": 1, "caption": "..."}}, ...]: {error!r}'
        ) from None
    if twice := [image_id for image_id, count in Counter(image_id for image_id, _ in captions).items() if count > 1]:
        raise DataError(
            f"{path}: image {twice[0]} has more than one caption ({len(twice)} images have): keep one of each"
        )
    by_id, image_ids = dict(captions), [source[place].image_id for place in range(len(source))]
    for what, some in (
        ("has no caption for image", set(image_ids) - by_id.keys()),
        ("has a caption for an image that the split lacks,", by_id.keys() - set(image_ids)),
    ):
        if some:
            raise DataError(f"{path}: {what} {min(some)} ({len(some)} such of {len(image_ids)} images)")
    return [{"image_id": image_id, "caption": by_id[image_id]} for image_id in image_ids]


def report(
    directory: Path,
    name: str,
    head: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    source: Source,
    data: DataConfig,
    evaluation: EvaluationConfig,
    captioner: Captioner | None = None,
) -> tuple[dict[str, Any], Path]:
    """Score captions and write what `write_report` and `write_html` do; of a captioner's also samples.png.

    Args:
        directory: where to.
        name: of the files.
        head: what is known already: `split`, perhaps `step` and losses.
        rows: the captions, as `caption_split` or `read_captions` gives them.
        source: their images.
        data: the configuration that it was opened with.
        evaluation: what is scored.
        captioner: that made the captions, whose run directory holds `directory`.

    Returns:
        The scores and the path of the JSON file.
    """
    records = {record.image_id: record for record in map(source.__getitem__, range(len(source)))}
    captions: list[dict[str, Any]] = [{**row, "references": list(records[row["image_id"]].captions)} for row in rows]
    texts, references = [row["caption"] for row in captions], [row["references"] for row in captions]
    weighs = evaluation.cider_corpus == "train"
    novelty = captioner is not None and "diversity" in evaluation.metrics
    trained_on = _training_captions(data, needed=weighs) if novelty or weighs else None
    scores, of_images = score_captions(texts, references, evaluation, training_captions=trained_on)
    scores = {**head, "images": len(captions), "dataset": describe(source, data, head["split"]), **scores}
    if isinstance(source, ScenesSource):
        scores["scenes"] = accuracies(texts, [source.scene(row["image_id"]) for row in captions])
    for key, values in of_images.items():
        for row, value in zip(captions, values.tolist(), strict=True):
            row[key] = value
    path = write_report(directory, name, scores, captions)

    def seen(row: Mapping[str, Any]) -> np.ndarray:  # what the network sees
        return source.transform.decode(records[row["image_id"]].read_image())

    shown = [row for group in select(captions, SHOWN).values() for row in group]
    if captioner:
        shown = [{**row, "words": _words(captioner, seen(row), row["caption"])} for row in shown]
        first = captions[: evaluation.samples]
        samples_figure(
            list(map(seen, first)), texts[: len(first)], references[: len(first)], directory.parent / "samples.png"
        )
    write_html(
        path.with_suffix(".html"),
        name,
        scores,
        shown,
        dataset=scores["dataset"],
        pictures={row["image_id"]: _thumbnail(records[row["image_id"]]) for row in shown},
        curves=read_json_lines(directory.parent / "metrics.jsonl") if captioner else (),
        sweep={key: other for key, other in read_reports(directory).items() if other.get("split") == head["split"]},
    )
    return scores, path


def _training_captions(data: DataConfig, needed: bool) -> list[tuple[str, ...]] | None:
    """Of each image; None where the training split is not there and not needed."""
    try:
        source = open_source(data, "train")
    except DataError:
        if needed:
            raise
        return None
    return [record.captions for record in map(source.__getitem__, range(len(source)))]


def _words(captioner: Captioner, image: np.ndarray, caption: str) -> list[dict[str, Any]]:
    """None where the caption, encoded again, is too long for the network: a young one's broken characters can be."""
    try:
        words = captioner.explain_prepared(image, caption)
    except ValueError:
        return []
    return [{"word": word.text, "log_prob": word.log_prob, "seen": word.seen} for word in words]


def _thumbnail(record: Record) -> np.ndarray:
    """The picture, for the page."""
    picture = decode_image(record.read_image())
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return np.asarray(picture)


def describe(source: Source, data: DataConfig, split: str) -> str:
    """What the images of a split are, in words; what is COCO's is told by names and numbers of its files."""
    if not data.root:
        return "drawn scenes"
    prepared = find_prepared(Path(data.root))
    karpathy = prepared is not None and "karpathy" in prepared.parts
    sizes = PUBLISHED["karpathy" if karpathy else "2017"]
    parts = [part for part in PARTS[split] if part in sizes]
    if len(source) != sum(sizes[part] for part in parts) or not all(map(COCO_NAME.fullmatch, source.filenames)):
        return data.root
    return f"COCO, Karpathy {split} split" if karpathy else f"COCO {'val' if split == 'validation' else split}2017"
