"""Images made for tests."""

import io

import numpy as np
from PIL import Image


def encode(image, image_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(width, height, mode="RGB", seed=0):
    channels = {"RGB": 3, "L": 1, "RGBA": 4, "CMYK": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if channels == 1 else values, mode=None if mode != "CMYK" else "CMYK")


def photograph(width, height, mode="RGB"):
    return noise(max(width // 8, 2), max(height // 8, 2), mode).resize((width, height), Image.Resampling.BICUBIC)
