"""Drawing scenes with PIL, at any size."""

import io
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Shape:
    """One shape of a scene, where it stands."""

    colour: str
    """One of `COLOURS`."""
    shape: str
    """One of `SHAPES`."""
    centre: tuple[float, float]
    """x and y, in shares of the image's side."""
    radius: float
    """Of the circle that it fits, in shares of the image's side."""
    ink: tuple[int, ...]
    """Its own shade of the colour, RGB."""

    @property
    def box(self) -> Box:
        """What it covers of the unit square."""
        (x, y), r = self.centre, self.radius
        if self.shape == "triangle":
            return x - 0.98 * r, y - r, x + 0.98 * r, y + 0.78 * r
        half = 0.84 * r if self.shape == "square" else r
        return x - half, y - half, x + half, y + half


def lay_out(scene: Scene, rng: Random) -> tuple[tuple[int, ...], list[Shape]]:
    """The light background, RGB, and each shape of a scene; `rng` draws places, sizes and shades."""
    background, shapes = tuple(rng.randint(224, 255) for _ in range(3)), list[Shape]()
    for group, cell in zip(scene.groups, cells(scene), strict=True):
        ink = tuple(min(255, max(0, value + rng.randint(-14, 14))) for value in _INK[group.colour])
        for x, y, radius in _places(group, cell, rng):
            shapes.append(Shape(group.colour, group.shape, (x, y), radius, ink))
    return background, shapes


def draw_scene(scene: Scene, rng: Random, size: int) -> bytes:
    """Draw a scene on a light background.

    Args:
        scene: what to show.
        rng: draws places, sizes and shades, as `lay_out`.
        size: side of the image in pixels.

    Returns:
        A PNG.
    """
    supersampling = 4 if size <= 128 else 2  # smooth edges, by drawing larger
    side = size * supersampling
    background, shapes = lay_out(scene, rng)
    image = Image.new("RGB", (side, side), background)
    draw = ImageDraw.Draw(image)
    for each in shapes:
        _draw_shape(draw, each, side)
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


def _draw_shape(draw: ImageDraw.ImageDraw, shape: Shape, side: int) -> None:
    """A shape of an image of this side, in pixels."""
    left, top, right, bottom = box = tuple(edge * side for edge in shape.box)
    if shape.shape == "ring":
        draw.ellipse(box, outline=shape.ink, width=max(1, round(0.42 * shape.radius * side)))
    elif shape.shape == "square":
        draw.rectangle(box, fill=shape.ink)
    elif shape.shape == "cross":
        inset = 0.66 * shape.radius * side
        draw.rectangle((left, top + inset, right, bottom - inset), fill=shape.ink)
        draw.rectangle((left + inset, top, right - inset, bottom), fill=shape.ink)
    else:  # triangle
        draw.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=shape.ink)
