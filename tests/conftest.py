import ctypes
import os
import tempfile
from pathlib import Path

# Compilations are kept between tests, processes and runs of the suite.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "dualcap_jax_test_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# Compiling is most of the suite's time, and its networks are too small to gain from optimised code.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from .typecheck import check

install_import_hook("dualcap_jax", f"{check.__module__}.{check.__name__}")

settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What a module compiled is let go of at its end: all of it together takes many gigabytes."""
    yield
    import jax

    jax.clear_caches()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps what was freed
        trim(0)


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A run trained without a break, and what the command printed."""
    from .commands import TINY, run

    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, run("train", "--workdir", workdir, *TINY).stdout
