"""Primitives tuned to a device: matrix products, depthwise convolutions, equal rows computed once."""
