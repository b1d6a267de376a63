"""Curves as inline SVG; the looks of `curve0` .. `curve3`, `rule` and `key` are the page's (html.css)."""

import math
from collections.abc import Mapping, Sequence
from html import escape


def ticks(low: float, high: float) -> list[float]:
    """Two to seven round numbers, from one at or below `low` to one at or above `high`; equal, they reach to 0."""
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0) or float(low == 0)
    span = high - low
    unit = 10.0 ** math.floor(math.log10(span / 3))
    unit *= next(factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    return [n * unit for n in range(math.floor(low / unit), math.ceil(high / unit) + 1)]


def plot(title: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Curves over steps as SVG, four at most with a look of their own."""
    left, right, top, bottom = 48, 344, 10, 180
    lines = {label: [(float(step), value) for step, value in points] for label, points in curves.items()}
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_span, y_span = max(max(xs) - min(xs), 1), y_ticks[-1] - y_ticks[0] or 1

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - min(xs)) / x_span * (right - left), bottom - (y - y_ticks[0]) / y_span * (bottom - top)

    drawn, keys = "", ""
    for tick in y_ticks:
        y = at(min(xs), tick)[1]
        drawn += f'<line class="rule" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        drawn += f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>'
    for tick in (tick for tick in x_ticks if min(xs) <= tick <= max(xs)):
        drawn += f'<text x="{at(tick, y_ticks[0])[0]:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.6g}</text>'
    for number, (label, points) in enumerate(lines.items()):
        look = f"curve curve{number % 4}"
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        drawn += f'<polyline class="{look}" points="{path}"/>'
        if len(points) == 1:
            drawn += '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(look, *at(*points[0]))
        ends = f"{points[0][1]:.4g} to {points[-1][1]:.4g}" if points[1:] else f"{points[0][1]:.4g}"
        keys += '<li><svg class="key" viewBox="0 0 32 10" aria-hidden="true">'
        keys += f'<line class="{look}" x2="32" y1="5" y2="5"/></svg>{escape(label)}: {ends}</li>'
    return (
        f'<figure><svg viewBox="0 0 360 216" role="img" aria-label="{escape(title)} over training steps">{drawn}'
        f'<text x="{(left + right) / 2}" y="{bottom + 30}" text-anchor="middle">step</text></svg>'
        f'<figcaption><strong>{escape(title)}</strong><ul class="keys">{keys}</ul></figcaption></figure>'
    )
