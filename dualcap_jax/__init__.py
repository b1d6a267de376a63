"""Image captioning by dual transfer learning: EfficientNet and GPT-2, joined by a small merger, in JAX."""

from dualcap_jax.captioner import Caption, Captioner

__all__ = ["Caption", "Captioner"]
