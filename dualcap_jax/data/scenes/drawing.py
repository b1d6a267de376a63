"""Drawing scenes with PIL, at any size."""

import io
from random import Random

from PIL import Image, ImageDraw

from dualcap_jax.data.scenes.scene import Group, Scene

_INK = {
    "red": (218, 40, 40),
    "green": (36, 150, 60),
    "blue": (40, 90, 220),
    "yellow": (242, 196, 15),
    "purple": (150, 60, 190),
    "black": (25, 25, 30),
}
_MARGIN = 0.03  # of the image's side, kept free all round
_GRIDS = {1: ((1, 1),), 2: ((1, 2), (2, 1)), 3: ((1, 3), (2, 2), (3, 1)), 4: ((1, 4), (2, 2), (4, 1))}

Box = tuple[float, float, float, float]  # left, top, right, bottom


def draw_scene(scene: Scene, rng: Random, size: int) -> bytes:
    """Draw a scene on a light background.

    Args:
        scene: what to show.
        rng: draws places, sizes and shades.
        size: side of the image in pixels.

    Returns:
        A PNG.
    """
    supersampling = 4 if size <= 128 else 2  # smooth edges, by drawing larger
    side = size * supersampling
    image = Image.new("RGB", (side, side), tuple(rng.randint(224, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for group, cell in zip(scene.groups, cells(scene), strict=True):
        ink = tuple(min(255, max(0, value + rng.randint(-14, 14))) for value in _INK[group.colour])
        for x, y, radius in _places(group, cell, rng):
            _draw_shape(draw, group.shape, x * side, y * side, radius * side, ink)
    buffer = io.BytesIO()
    image.reduce(supersampling).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def cells(scene: Scene) -> list[Box]:
    """The part of the unit square that each group may use."""
    low, extent, number = _MARGIN, 1 - 2 * _MARGIN, len(scene.groups)
    bounds = [(low + extent * i / number, low + extent * (i + 1) / number) for i in range(number)]
    if scene.layout == "column":
        return [(low, start, low + extent, end) for start, end in bounds]
    return [(start, low, end, low + extent) for start, end in bounds]


def _places(group: Group, cell: Box, rng: Random) -> list[tuple[float, float, float]]:
    """Centre and radius of each shape of a group: a loose grid of its own somewhere in the cell."""
    left, top, right, bottom = cell
    width, height = right - left, bottom - top
    pitches = {grid: min(width / grid[1], height / grid[0], 0.4) for grid in _GRIDS[group.count]}
    roomy = [grid for grid, pitch in pitches.items() if pitch >= 0.75 * max(pitches.values())]
    rows, columns = grid = rng.choice(roomy)
    pitch = pitches[grid] * rng.uniform(0.8, 1.0)
    # Groups in a row stay near one height, those in a column near one line: no second relation between them.
    slack_x, slack_y = (min(0.12, extent) for extent in (width - columns * pitch, height - rows * pitch))
    x0 = (left + right - columns * pitch) / 2 + slack_x * rng.uniform(-0.5, 0.5)
    y0 = (top + bottom - rows * pitch) / 2 + slack_y * rng.uniform(-0.5, 0.5)
    slots = rng.sample([(row, column) for row in range(rows) for column in range(columns)], group.count)
    radius = 0.45 * pitch
    spare = 0.5 * pitch - radius
    return [
        (
            x0 + (column + 0.5) * pitch + rng.uniform(-spare, spare) * 0.25,
            y0 + (row + 0.5) * pitch + rng.uniform(-spare, spare) * 0.25,
            radius,
        )
        for row, column in slots
    ]


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, ink: tuple[int, ...]) -> None:
    """A shape that fits the circle of this radius around (x, y), all in pixels."""
    r = radius
    if shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=max(1, round(0.42 * r)))
    elif shape == "square":
        h = 0.84 * r
        draw.rectangle((x - h, y - h, x + h, y + h), fill=ink)
    elif shape == "cross":
        a = 0.34 * r
        draw.rectangle((x - r, y - a, x + r, y + a), fill=ink)
        draw.rectangle((x - a, y - r, x + a, y + r), fill=ink)
    else:  # triangle
        draw.polygon([(x, y - r), (x + 0.98 * r, y + 0.78 * r), (x - 0.98 * r, y + 0.78 * r)], fill=ink)
