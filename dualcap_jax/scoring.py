"""The captions of a split, made or read from a file; their scores; and the reports of both."""

import json
import math
import os
import re
import reprlib
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from dualcap_jax.captioner import Captioner
from dualcap_jax.config import load_json
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.pipeline import eval_batches
from dualcap_jax.data.prepared.reader import PARTS, PUBLISHED, find_prepared
from dualcap_jax.data.records import DataError, Record, Source
from dualcap_jax.data.scenes.grading import accuracies
from dualcap_jax.data.sources import KARPATHYS, layout_of, open_source
from dualcap_jax.data.sources.entries import coco_number
from dualcap_jax.data.sources.scenes import ScenesSource
from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.encoding import checksum
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.evaluation.metrics.score import check_metrics, score_captions
from dualcap_jax.evaluation.reports.figures import samples_figure
from dualcap_jax.evaluation.reports.files import read_reports, write_report
from dualcap_jax.evaluation.reports.html import select, write_html
from dualcap_jax.evaluation.reports.values import Evaluation, ExplainedWord, ScoredCaption, ShownCaption
from dualcap_jax.files import naming, write_text
from dualcap_jax.models.mergers import Image
from dualcap_jax.owners import owned
from dualcap_jax.processes import first_alone, in_turn, is_first
from dualcap_jax.training.config import Which
from dualcap_jax.training.logs import ROW, BrokenLog, read_rows
from dualcap_jax.training.objectives.cross_entropy import mean_losses

COCO_2017 = re.compile(r"\d{12}\.jpg")
"""Names of its images."""

Encoded = dict[int, Image]
"""What the network made of images, by image id; each leaf [1, ...]."""

Explain = Callable[[Record, str], tuple[ExplainedWord, ...]]
"""`(image, caption) -> words`, none where they cannot be told."""

SHOWN = 6
"""Images that the page shows of the best, the median and the worst each."""

SHOWN_SIDE = 380
"""Pixels that their longer side has at most."""


def evaluate(
    captioner: Captioner,
    workdir: Path,
    split: str,
    decoding: DecodingConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    *,
    checkpoint: Which = "best",
    wait: bool = False,
) -> tuple[Evaluation, Path]:
    """Caption a split, score the captions, and write the reports into the run directory.

    Interrupted, it goes on where it was when called again with the same settings. Of several processes each captions
    its share, and the first writes the reports.

    Args:
        captioner: the run's.
        workdir: the run directory.
        split: of the run's data.
        decoding: settings of the search; None: the run's.
        evaluation: what is scored; None: the run's.
        checkpoint: that the captioner is of, for the reports' name.
        wait: for another process that writes the same reports, instead of refusing.

    Returns:
        The captions with all that was measured of them, in the first process, and the path of the JSON file written.

    Raises:
        DataError: there is no such split, or a fault in it; or the training split is needed and not there.
        MetricError: a metric lacks what it runs on.
        Owned: another process writes the same reports.
        BrokenLog: a line of the run's metrics.jsonl is no row.
    """
    config = captioner.config
    decoding, settings = decoding or config.decoding, evaluation or config.evaluation
    source = open_source(config.data, split)
    usual = load_json(workdir / "config.json")
    directory, name = workdir / "evaluation", f"{split}-{decoding.name(usual.decoding)}"
    name += "-latest" if checkpoint == "latest" else ""
    name += root_name(config.data.root, usual.data.root) + settings.name(usual.evaluation)
    process, processes = jax.process_index(), jax.process_count()
    share = f"-{process}-of-{processes}" if processes > 1 else ""
    progress = directory / f"{name}.progress{share}.jsonl"
    check_metrics(settings)
    list(read_rows(workdir / "metrics.jsonl", ROW))  # that the reports can be written is known before the work
    if settings.cider_corpus == "train":
        open_source(config.data, "train")  # the same
    with ExitStack() as stack:
        with first_alone() as first:
            if first:
                stack.enter_context(owned(directory / f".{name}.lock", f"{directory / name}.*", wait=wait))
        captions, losses, encoded = caption_split(captioner, source, decoding, progress)
        dataset = describe(source, config.data, split)
        made = Evaluation(name, split, dataset, captions, captioner.step, asdict(decoding), losses)
        scored, path = made, directory / f"{name}.json"
        if is_first():
            scored = score(made, source, config.data, settings)
            path = report(directory, scored, source, explainer(captioner, source, encoded))
            draw_samples(source, scored.captions[: settings.samples], workdir / "samples.png")
        progress.unlink()
    if source.faults.skipped:
        print(source.faults.summary())
    return scored, path


def root_name(root: str, usual: str) -> str:
    """What tells reports on data elsewhere than usual apart: the folder's name, and a checksum of its path."""
    if Path(root).resolve() == Path(usual).resolve() and bool(root) == bool(usual):
        return ""
    path = Path(root).resolve()
    return f"-root-{re.sub('[^A-Za-z0-9_.]+', '_', path.name)[:40]}-{zlib.crc32(os.fsencode(path)):08x}"


def caption_split(
    captioner: Captioner, source: Source, decoding: DecodingConfig, progress: Path
) -> tuple[tuple[ScoredCaption, ...], dict[str, float], Encoded]:
    """Caption every image of a source, and compute the losses on its references; each of several processes takes its
    share of the batches.

    Args:
        captioner: makes the captions.
        source: the images.
        decoding: settings of the search.
        progress: file that each batch is added to as it is done. What it holds of the same captioner with the same
            settings is not done again, up to the first batch whose images or references are no longer the same.

    Returns:
        The captions with the captioner's own scores; both losses, in nats, with `perplexity`; and the vectors of the
        images captioned now, so that none is encoded twice, where the merger reads nothing else.
    """
    data = captioner.config.data
    weights = checksum(jax.tree.leaves(captioner.model))
    about = {"step": captioner.step, "weights": weights, "tokenizer": captioner.tokenizer.digest}
    header = json.loads(json.dumps(about | {"decoding": asdict(decoding)}))
    before: list[dict[str, Any]] = []
    with suppress(BrokenLog):  # what comes after is made anew
        before.extend(read_rows(progress))
    before = before[1:] if before[:1] == [header] else []

    def keep(batches: list[dict[str, Any]]) -> None:
        write_text(progress, "".join(json.dumps(line) + "\n" for line in (header, *batches)))

    keep(before)
    search = captioner.searcher(decoding)
    done: list[dict[str, Any]] = []
    encoded: Encoded = {}
    process, processes = jax.process_index(), jax.process_count()
    batches = eval_batches(source, captioner.tokenizer, data, decoding.batch_size, process, processes)
    with tqdm(total=len(source), unit="image", disable=None if is_first() else True) as bar:
        for number, batch in enumerate(batches):
            image_ids = batch["image_id"][batch["image_id"] >= 0].tolist()
            content = checksum(batch.values())
            if len(done) < len(before) and before[len(done)]["content"] != content:
                bar.write(
                    f"{progress}: images or captions have changed since; they are captioned anew from image "
                    f"{image_ids[0]} on",
                    file=sys.stderr,
                )
                before = done[:]
                keep(before)
            if len(done) < len(before):
                done.append(before[len(done)])
            else:
                features = captioner.encode(batch["image"])
                sums = captioner.losses(features, batch["tokens"], batch["mask"])
                at = (number * processes + process) * decoding.batch_size
                made = search(features, at)[: len(image_ids)]
                rows = [
                    {"image_id": image_id, "caption": caption.text, "score": caption.score}
                    for image_id, caption in zip(image_ids, made, strict=True)
                ]
                done.append({"content": content, "captions": rows, "losses": sums})
                with naming(progress), progress.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
                if not captioner.config.model.merger.reads:  # feature maps of thousands of images would fill the memory
                    encoded |= zip(image_ids, np.asarray(features)[: len(image_ids), None], strict=True)
            bar.update(len(image_ids) * processes)
    every = in_turn(done)
    captions = [ScoredCaption(**row) for batch in every for row in batch["captions"]]
    losses = mean_losses(batch["losses"] for batch in every)
    return tuple(captions), losses | {"perplexity": math.exp(losses["loss"])}, encoded


def read_captions(path: Path, source: Source) -> tuple[ScoredCaption, ...]:
    """The captions of any system, in COCO's results format, in the order of a source's images.

    Args:
        path: a JSON list of `{"image_id": 42, "caption": "A dog."}`, one for each image of the source.
        source: the images.

    Raises:
        DataError: the file is no such list, or not of just these images.
    """
    wanted = 'not captions in COCO\'s results format, [{"image_id": 1, "caption": "..."}, ...]'
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {wanted}: {error}") from None
    if not isinstance(entries, list):
        raise DataError(f"{path}: {wanted}: it is {reprlib.repr(entries)}, not a list")
    captions = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not {"image_id", "caption"} <= entry.keys():
            raise DataError(f"{where}: {wanted}: it is {reprlib.repr(entry)}")
        image_id, caption = _whole_number(entry["image_id"]), entry["caption"]
        if image_id is None:
            raise DataError(f"{where}: image_id {reprlib.repr(entry['image_id'])} is not an image's number, such as 1")
        if not isinstance(caption, str):
            raise DataError(
                f"{where}: the caption of image {image_id} is {reprlib.repr(caption)}, not text; give one text, in "
                'quotes, or "" for a caption without words'
            )
        captions.append((image_id, caption))
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
    return tuple(ScoredCaption(image_id, by_id[image_id]) for image_id in image_ids)


def _whole_number(value: object) -> int | None:
    """An image's number as JSON or a table that was turned into it writes it: 7, 7.0 or "7"; None for anything else."""
    if (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def score(evaluation: Evaluation, source: Source, data: DataConfig, settings: EvaluationConfig) -> Evaluation:
    """Put the references to the captions, and the scores of both.

    Args:
        evaluation: the captions.
        source: their images.
        data: the configuration that it was opened with.
        settings: what is scored.

    Returns:
        The evaluation with `references`, `cider_d`, `scores` and `scenes`.

    Raises:
        DataError: the training captions are needed and not there.
        MetricError: a metric lacks what it runs on.
    """
    references = {record.image_id: record.captions for record in map(source.__getitem__, range(len(source)))}
    captions = [replace(each, references=references[each.image_id]) for each in evaluation.captions]
    texts = [each.caption for each in captions]
    weighs = settings.cider_corpus == "train"
    novelty = evaluation.step is not None and "diversity" in settings.metrics  # a captioner trained on these data
    trained_on = _training_captions(data, needed=weighs) if novelty or weighs else None
    scores, cider_d = score_captions(
        texts, [each.references for each in captions], settings, training_captions=trained_on
    )
    if cider_d is not None:
        captions = [replace(each, cider_d=value) for each, value in zip(captions, cider_d.tolist(), strict=True)]
    scored = replace(evaluation, captions=tuple(captions), scores=scores)
    if isinstance(source, ScenesSource):
        return replace(scored, scenes=accuracies(texts, [source.scene(each.image_id) for each in captions]))
    return scored


def report(
    directory: Path,
    evaluation: Evaluation,
    source: Source,
    explain: Explain | None = None,
) -> Path:
    """Write what `write_report` and `write_html` do.

    Args:
        directory: where to; of a run's own evaluation, in the run directory.
        evaluation: scored.
        source: its images.
        explain: gives the words of a caption of an image; None: they are not explained.

    Returns:
        The path of the JSON file.
    """
    logged = list(read_rows(directory.parent / "metrics.jsonl", ROW)) if evaluation.step is not None else []
    path = write_report(directory, evaluation)
    chosen = select(evaluation.captions, SHOWN)
    records = _records(source, list(chain.from_iterable(chosen.values())))

    def show(caption: ScoredCaption) -> ShownCaption:
        record = records[caption.image_id]
        words = explain(record, caption.caption) if explain else ()
        return ShownCaption(caption, _thumbnail(record, source.transform), words)

    write_html(
        path.with_suffix(".html"),
        evaluation,
        {title: list(map(show, group)) for title, group in chosen.items()},
        logged=logged,
        others=[each for each in read_reports(directory) if _comparable(each, evaluation)],
    )
    return path


def _comparable(other: Evaluation, evaluation: Evaluation) -> bool:
    """Whether it is another evaluation of the same images."""
    same = (other.split, other.dataset, len(other.captions))
    return same == (evaluation.split, evaluation.dataset, len(evaluation.captions)) and other.name != evaluation.name


def explainer(captioner: Captioner, source: Source, encoded: Encoded) -> Explain:
    """Explains captions of a source's images, of which some are encoded already."""

    def explain(record: Record, caption: str) -> tuple[ExplainedWord, ...]:
        features = encoded.get(record.image_id)
        if features is None:  # it was captioned before an interruption
            features = captioner.encode(source.transform.decode(record.read_image(), record.filename)[None])
        try:
            words = captioner.explain_encoded(features, caption)
        except ValueError:  # encoded again it is too long for the network: a young one's broken characters can be
            return ()
        return tuple(ExplainedWord(word.text, word.log_prob, word.seen) for word in words)

    return explain


def draw_samples(source: Source, captions: Sequence[ScoredCaption], path: Path) -> None:
    """Draw what the network saw above what it said of it; see `samples_figure`."""
    records = _records(source, captions)
    seen = [source.transform.decode(records[each.image_id].read_image()) for each in captions]
    samples_figure([ShownCaption(*pair) for pair in zip(captions, seen, strict=True)], path)


def _records(source: Source, captions: Sequence[ScoredCaption]) -> dict[int, Record]:
    """The records of the captions' images, by id."""
    wanted = {each.image_id for each in captions}
    every = map(source.__getitem__, range(len(source)))
    return {record.image_id: record for record in every if record.image_id in wanted}


def _training_captions(data: DataConfig, needed: bool) -> list[tuple[str, ...]] | None:
    """Of each image; None where the training split is not there and not needed."""
    try:
        source = open_source(data, "train")
    except DataError:
        if needed:
            raise
        return None
    return [record.captions for record in map(source.__getitem__, range(len(source)))]


def _thumbnail(record: Record, transform: ImageTransform) -> UInt8[np.ndarray, "height width 3"]:
    """The image, for the page."""
    image = transform.open(record.read_image(), record.filename)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return np.asarray(image)


def describe(source: Source, data: DataConfig, split: str) -> str:
    """What the images of a split are, in words; what is COCO's is told by names and numbers of its files."""
    if not data.root:
        return "drawn scenes"
    prepared = find_prepared(Path(data.root))
    karpathy = "karpathy" in prepared.parts if prepared else layout_of(Path(data.root)) in KARPATHYS
    sizes = PUBLISHED["karpathy" if karpathy else "2017"]
    parts = [part for part in PARTS[split] if part in sizes]
    named = coco_number if karpathy else COCO_2017.fullmatch
    if len(source) != sum(sizes[part] for part in parts) or None in map(named, source.filenames):
        return data.root
    return f"COCO, Karpathy {split} split" if karpathy else f"COCO {'val' if split == 'validation' else split}2017"
