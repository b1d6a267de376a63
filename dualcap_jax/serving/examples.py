"""Pictures for those who have none at hand."""

from random import Random

from dualcap_jax.data.scenes.drawing import draw_scene
from dualcap_jax.data.scenes.scene import sample_scene

COUNT = 6


def draw_examples(size: int = 256) -> list[bytes]:
    """Scenes as PNGs, the same ones each time, of so many pixels a side."""
    drawn = [Random(seed) for seed in range(COUNT)]
    return [draw_scene(sample_scene(rng, 1 + place % 3), rng, size) for place, rng in enumerate(drawn)]
