"""timm and effdet without torchvision, whose operators on PyPI are compiled for CUDA: no network computes with it."""

import sys
from unittest.mock import MagicMock, patch

import pytest

_NAMES = "", ".models", ".models.feature_extraction", ".ops", ".ops.boxes", ".ops.misc", ".transforms"
_NAMES += ".transforms.functional", ".datasets", ".datasets.folder"
_STAND_INS = {f"torchvision{name}": MagicMock() for name in _NAMES}

sys.modules.update(_STAND_INS)
try:
    with patch("torch.jit.script", lambda of, *_, **__: of):
        effdet, timm = (pytest.importorskip(name, reason="parity with effdet and timm") for name in ("effdet", "timm"))
finally:
    for _name in _STAND_INS:
        del sys.modules[_name]

__all__ = ["effdet", "timm"]
