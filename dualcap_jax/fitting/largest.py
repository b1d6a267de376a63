"""The largest batch that fits, by few compilations: what a step takes is nearly a line over the batch."""

import math
from collections.abc import Callable


def largest_that_fits(peak: Callable[[int], int], limit: int, first: int, unit: int = 1, tries: int = 3) -> int:
    """The largest batch whose peak was found to fit, near to where a line through two others meets the limit.

    Up to 16 units it is exact where the peak is a line; above, one of 8 sizes between two powers of 2.

    Args:
        peak: bytes of a batch; called for few sizes, each once.
        limit: bytes that there are.
        first: a size to begin with.
        unit: what sizes are multiples of.
        tries: sizes looked at after the first two.

    Returns:
        The size; 0 where none was found to fit.
    """
    known = {first: peak(first)}
    second = 2 * first if known[first] <= limit else max(unit, first // 2 // unit * unit)
    if second not in known:
        known[second] = peak(second)
    for _ in range(tries):
        fitting, failing = (sorted(size for size in known if (known[size] <= limit) is fits) for fits in (True, False))
        if len(known) < 2:
            break
        a, b = (fitting[-1], failing[0]) if fitting and failing else (fitting or failing[::-1])[-2:]
        if known[a] == known[b]:
            break
        guess = a + (limit - known[a]) * (b - a) / (known[b] - known[a])
        size = _round(max(min([guess, *(each - unit for each in failing[:1])]), unit), unit)
        if size in known or size < max(fitting, default=0):
            break
        known[size] = peak(size)
    return max((size for size in known if known[size] <= limit), default=0)


def _round(size: float, unit: int) -> int:
    """Down to a multiple of the unit with four binary digits."""
    units = int(size // unit)
    step = 2 ** max(0, int(math.log2(units)) - 3)
    return units // step * step * unit
