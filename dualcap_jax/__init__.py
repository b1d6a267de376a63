"""Image captioning by dual transfer learning: EfficientNet and GPT-2, joined by a small merger, in JAX.

What is named here is the public API, and so are the commands: `dualcap train` or `python -m dualcap_jax.train`, and so
on. Everything else may change with any version.
"""

from typing import TYPE_CHECKING, Any

from dualcap_jax import starting

if starting.is_command():  # whose imports take seconds
    starting.use_huge_pages()
    starting.end_at_once()
    starting.put_off_collecting()

if TYPE_CHECKING:
    from dualcap_jax.captioner import Caption, Captioner
    from dualcap_jax.config import ExperimentConfig, load_experiment
    from dualcap_jax.errors import UserError
    from dualcap_jax.explain.words import Word

    __version__: str

_HOMES = {
    "Caption": "captioner",
    "Captioner": "captioner",
    "ExperimentConfig": "config",
    "UserError": "errors",
    "Word": "explain.words",
    "load_experiment": "config",
}
"""The module of each name, imported once the name is asked for."""

__all__ = ["Caption", "Captioner", "ExperimentConfig", "UserError", "Word", "__version__", "load_experiment"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dualcap-jax")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"dualcap_jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
