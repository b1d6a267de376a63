"""What every score asks of captions and references."""

from collections.abc import Sequence


def check_captions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse captions that cannot be scored.

    Raises:
        ValueError: when there is nothing to score, the lengths differ, or an image has no reference.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} lists of references")
    if not hypotheses:
        raise ValueError("no hypotheses: the score of nothing is undefined")
    for index, some in enumerate(references):
        if isinstance(some, str):
            raise ValueError(f"references[{index}] is the string {some!r}: give a list of strings")
        if not some:
            raise ValueError(f"references[{index}] is empty: give a reference for {hypotheses[index]!r}")
