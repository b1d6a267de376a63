"""Image captioning by dual transfer learning: EfficientNet and GPT-2, joined by a small merger, in JAX.

What is named here is the public API, and so are the commands `python -m dualcap_jax.train`, `.evaluate` and `.caption`.
Everything else may change with any version.
"""

from dualcap_jax import starting

if starting.is_command():
    starting.end_at_once()  # first: the imports below take seconds

from importlib.metadata import version

from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.errors import UserError
from dualcap_jax.explain.words import Word

__version__ = version("dualcap-jax")

__all__ = ["Caption", "Captioner", "ExperimentConfig", "UserError", "Word", "__version__", "load_experiment"]
