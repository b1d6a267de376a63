"""Image captioning by dual transfer learning: EfficientNet and GPT-2, joined by a small merger, in JAX.

What is named here is the public API, and so are the commands `python -m dualcap_jax.train`, `.evaluate` and `.caption`.
Everything else may change with any version.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from dualcap_jax import interrupts

if sys.argv[:1] == ["-m"] or Path(sys.argv[0] or ".").resolve().parent == Path(__file__).parents[1] / "scripts":
    interrupts.end_at_once()  # a command: the imports below take seconds

from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.errors import UserError
from dualcap_jax.explain.words import Word

__version__ = version("dualcap-jax")

__all__ = ["Caption", "Captioner", "ExperimentConfig", "UserError", "Word", "__version__", "load_experiment"]
