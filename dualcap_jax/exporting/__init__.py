"""Captioners in forms that need none of this package's code."""

from typing import Literal

Precision = Literal["float32", "float16", "int8"]
"""Of the weights in ONNX. int8: those of products alone, quantised, with float32 between them."""
