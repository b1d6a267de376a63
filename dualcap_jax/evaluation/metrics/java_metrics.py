"""METEOR and SPICE, which exist in Java alone, through pycocoevalcap."""

import shutil
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dualcap_jax.errors import UserError
from dualcap_jax.evaluation.metrics.inputs import check_captions
from dualcap_jax.evaluation.metrics.ptb import tokenize


class MetricError(UserError):
    """What a score needs isn't here; the message says how to mend it."""


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of a corpus (Denkowski and Lavie 2014), as COCO-caption has it.

    Args:
        hypotheses: One caption for each image.
        references: Its references, one or more for each image.

    Returns:
        0 to 1.

    Raises:
        ValueError: when there is nothing to score, the lengths differ, or an image has no reference.
        MetricError: without Java or pycocoevalcap.
    """
    targets, results = _prepared(hypotheses, references)
    return float(require("meteor").Meteor().compute_score(targets, results)[0])


def spice(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SPICE of a corpus (Anderson et al. 2016), as COCO-caption has it; takes and returns what `meteor` does.

    Raises:
        ValueError: as `meteor`.
        MetricError: without Java, pycocoevalcap or the CoreNLP that it downloads; or where its Java program fails.
    """
    targets, results = _prepared(hypotheses, references)
    try:
        return float(require("spice").Spice().compute_score(targets, results)[0])
    except subprocess.CalledProcessError as error:
        raise MetricError(f"SPICE's Java program ended with code {error.returncode}; it was made for Java 8") from None


def _prepared(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and captions by number, tokenized, as pycocoevalcap takes them."""
    check_captions(hypotheses, references)
    targets = {index: [" ".join(tokenize(each)) for each in some] for index, some in enumerate(references)}
    return targets, {index: [" ".join(tokenize(each))] for index, each in enumerate(hypotheses)}


def require(metric: str) -> Any:
    """The module of "meteor" or "spice", once all that it runs on is there.

    Raises:
        MetricError: it isn't; the message says what to install.
    """
    name = metric.upper()
    if shutil.which("java") is None:
        raise MetricError(f"{name} runs on Java, and there is no `java` on the PATH: install a Java runtime")
    try:
        module: Any = import_module(f"pycocoevalcap.{metric}.{metric}")
    except ImportError as error:
        raise MetricError(f"{name} needs pycocoevalcap ({error}): pip install 'dualcap-jax[coco-metrics]'") from None
    if metric == "spice" and not (Path(module.__file__).parent / "lib" / "stanford-corenlp-3.6.0.jar").exists():
        raise MetricError(
            "SPICE needs Stanford CoreNLP 3.6.0; where there is a network, fetch it once with: python -c "
            "'from pycocoevalcap.spice.get_stanford_models import get_stanford_models; get_stanford_models()'"
        )
    return module
