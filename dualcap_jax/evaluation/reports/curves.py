"""What a run logged over its steps, as curves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dualcap_jax.evaluation.reports.values import is_number

PANELS = {
    "loss": "loss per token, nats",
    "loss_all_positions": "loss per position, padding included, nats",
    "reward": "CIDEr-D, 0 to 10: of drawn captions in training, of greedy ones in validation",
    "learning_rate": "learning rate",
}
"""What is drawn of metrics.jsonl, by key, and the titles."""

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""By title and split: steps and values."""


def curves(rows: Sequence[Mapping[str, Any]], keys: Iterable[str] = PANELS) -> Curves:
    """The curves that have a point.

    Args:
        rows: Of metrics.jsonl: `step`, `split`, and any of the keys; a value may be missing or null.
        keys: Of `PANELS`.
    """
    panels: Curves = {}
    for key in keys:
        for row in rows:
            if is_number(row.get(key)):
                panels.setdefault(PANELS[key], {}).setdefault(row["split"], []).append((row["step"], row[key]))
    return panels
