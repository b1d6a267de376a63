"""Evaluations as files, written and read back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualcap_jax.errors import UserError
from dualcap_jax.evaluation.reports.markdown import markdown
from dualcap_jax.evaluation.reports.values import Evaluation, ScoredCaption
from dualcap_jax.files import write_text

LOSSES = ("loss", "loss_all_positions", "perplexity")
NO_SCORES = ("split", "step", "decoding", "images", "dataset", "scenes", "captions", *LOSSES)
"""Keys of the JSON file beside those of the scores."""


class ReportError(UserError):
    """A file that holds no evaluation."""


def write_report(directory: Path, evaluation: Evaluation) -> Path:
    """Write `NAME.json`, `NAME.md` and `captions_NAME_results.json` beside it, each whole or not at all.

    Args:
        directory: Where to; made if need be.
        evaluation: What is written.

    Returns:
        The path of the first, which holds everything: see `to_json`. The third holds the captions alone, in the format
        that COCO's evaluation server takes.
    """
    path = directory / f"{evaluation.name}.json"
    results = [{"image_id": each.image_id, "caption": each.caption} for each in evaluation.captions]
    write_text(directory / f"captions_{evaluation.name}_results.json", json.dumps(results) + "\n")
    write_text(path.with_suffix(".md"), markdown(evaluation))
    write_text(path, json.dumps(to_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_report(path: Path) -> Evaluation:
    """The evaluation in a `NAME.json`.

    Raises:
        ReportError: there is none.
    """
    try:
        return from_json(path.stem, json.loads(path.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"{path}: no evaluation that dualcap_jax.evaluate wrote ({error!r})") from None


def read_reports(directory: Path) -> list[Evaluation]:
    """Those that `write_report` wrote into a directory, by name; files of anything else are passed over."""
    reports = []
    for path in sorted(directory.glob("*.json")):
        try:
            reports.append(read_report(path))
        except ReportError:
            continue
    return reports


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """What the JSON file holds: all but the name. None, but for a score, is left out; what isn't finite is null."""
    known = {"split": evaluation.split, "step": evaluation.step, "decoding": evaluation.decoding}
    content: dict[str, Any] = {**_not_none(known), **evaluation.losses}
    content |= {"images": len(evaluation.captions), "dataset": evaluation.dataset, **evaluation.scores}
    if evaluation.scenes:
        content["scenes"] = evaluation.scenes
    return _finite(content | {"captions": [_not_none(vars(each)) for each in evaluation.captions]})


def from_json(name: str, content: Mapping[str, Any]) -> Evaluation:
    """The evaluation that `to_json` gave; null is NaN, but for a score.

    Raises:
        LookupError, TypeError, AttributeError: it gave no such thing.
    """
    rows = [row | {"references": tuple(row["references"])} for row in content["captions"]]
    return Evaluation(
        name=name,
        split=content["split"],
        dataset=content.get("dataset", ""),
        captions=tuple(ScoredCaption(**_not_null(row)) for row in rows),
        step=content.get("step"),
        decoding=content.get("decoding"),
        losses=_not_null({key: value for key, value in content.items() if key in LOSSES}),
        scores={key: value for key, value in content.items() if key not in NO_SCORES},
        scenes=_not_null(content.get("scenes", {})),
    )


def _not_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _not_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}


def _finite(value: Any) -> Any:
    """The value with null for the numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
