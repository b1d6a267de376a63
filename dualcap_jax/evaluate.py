"""Score a run: python -m dualcap_jax.evaluate WORKDIR [--split SPLIT] [--decoding.num-beams 5 ...]."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from dualcap_jax import cli
from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.pipeline import eval_batches
from dualcap_jax.data.records import DataError
from dualcap_jax.data.scenes_grading import accuracies
from dualcap_jax.data.sources import ScenesSource, open_source, refuse_shared_images
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.evaluation.bleu import corpus_bleu
from dualcap_jax.evaluation.report import samples_figure, scores_table, write_report
from dualcap_jax.training.checkpoints import Which
from dualcap_jax.training.step import make_eval_step, mean_losses


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str]
    """Run directory that `python -m dualcap_jax.train` wrote."""
    split: Literal["train", "validation", "test"] = "validation"
    """Split of the run's data to score."""
    checkpoint: Which = "best"
    """best (by validation loss) or latest."""
    root: str = ""
    """Where the data lies now, if not where the run was trained on."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched for; the run's own settings unless changed."""


def evaluate(captioner: Captioner, workdir: Path, split: str, decoding: DecodingConfig) -> tuple[dict[str, Any], Path]:
    """Caption a split, score the captions, and write the report into the run directory.

    Args:
        captioner: the run's.
        workdir: the run directory.
        split: of the run's data.
        decoding: settings of the search.

    Returns:
        The scores (see README, "Evaluation") and the path of the JSON file written.
    """
    config = captioner.config
    source = open_source(config.data, split)
    eval_step, sums = make_eval_step(config.model), Counter[str]()
    captions: list[Caption] = []
    image_ids: list[int] = []
    pictures: list[np.ndarray] = []
    batches = eval_batches(source, captioner.tokenizer, config.data, decoding.batch_size)
    for batch in tqdm(batches, f"{split}, {decoding.name}", unit="batch", disable=None):
        sums.update({name: float(value) for name, value in eval_step(captioner.model, batch).items()})
        real = batch["image_id"] >= 0
        captions += captioner.caption_prepared(batch["image"][real], decoding)
        image_ids += batch["image_id"][real].tolist()
        pictures += list(batch["image"][real])[: config.evaluation.samples - len(pictures)]

    records = {record.image_id: record for record in (source[index] for index in range(len(source)))}
    references = [list(records[image_id].captions) for image_id in image_ids]
    texts = [caption.text for caption in captions]
    scores: dict[str, Any] = {"split": split, "step": captioner.step, "images": len(texts)}
    scores |= corpus_bleu(texts, references, lowercase=config.evaluation.lowercase)
    scores |= mean_losses(sums)
    if isinstance(source, ScenesSource):
        scores["scenes"] = accuracies(texts, [source.scene(image_id) for image_id in image_ids])
    rows = [
        {"image_id": image_id, "caption": caption.text, "score": caption.score, "references": refs}
        for image_id, caption, refs in zip(image_ids, captions, references, strict=True)
    ]
    path = write_report(workdir / "evaluation", f"{split}-{decoding.name}", scores, rows)
    samples_figure(pictures, texts[: len(pictures)], references[: len(pictures)], workdir / "samples.png")
    if source.faults.skipped:
        print(source.faults.summary())
    return scores, path


def refuse_trained_on(trained_on: DataConfig, data: DataConfig, split: str) -> None:
    """COCO's images have one name each in all of its divisions: those trained on in one must not be scored in another.

    Raises:
        DataError: one of the split was trained on.
    """
    if split == "train" or not Path(trained_on.root).is_dir():
        return
    try:
        train = open_source(trained_on, "train")
    except DataError:  # what was trained on is no longer there
        return
    other = open_source(data, split)
    if all(re.fullmatch(r"\d{12}\.jpg", name) for name in (*train.filenames, *other.filenames)):
        refuse_shared_images(train, other, split)


def main(args: Sequence[str]) -> int:
    """Score a run and print the table; returns the exit code."""
    description = "Score a run on a split of its data: BLEU, both losses, and for scenes what was told right."
    arguments = cli.parse(Arguments, args, "evaluate", description)
    captioner = Captioner.load(arguments.workdir, arguments.checkpoint)
    default = replace(arguments, decoding=captioner.config.decoding)
    arguments = cli.parse(Arguments, args, "evaluate", description, default)
    if arguments.root:
        trained_on = captioner.config.data
        data = replace(trained_on, root=arguments.root)
        refuse_trained_on(trained_on, data, arguments.split)
        captioner.config = replace(captioner.config, data=data)
    scores, path = evaluate(captioner, Path(arguments.workdir), arguments.split, arguments.decoding)
    print(scores_table(scores))
    print(f"written: {path}, {path.with_suffix('.md')}, {arguments.workdir}/samples.png")
    return 0


if __name__ == "__main__":
    cli.run(main)
