"""The experiments that come with the project."""

from pathlib import Path

import pytest

from dualcap_jax.config import ExperimentConfig, load_experiment
from dualcap_jax.detector import DetectorExperiment
from dualcap_jax.models.variables import parameter_counts

CONFIGS = Path(__file__).parents[1] / "configs"
ORIGINAL = load_experiment(CONFIGS / "coco_b4_gpt2.py")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_experiment_describes_a_network(path):
    kind = DetectorExperiment if path.stem.startswith("detector_") else ExperimentConfig
    config = load_experiment(path, kind)
    assert isinstance(config, kind)
    assert sum(parameter_counts(config.model).values()) > 1e5


def test_the_original_is_the_original():
    assert parameter_counts(ORIGINAL.model) == {
        "encoder": 19_341_616,
        "language": 124_439_808,
        "merger": 1768 * 384 + 384 + 384 * 768 + 768 + 768 * 256 + 256 + 256 * 768 + 768,
    }
    assert ORIGINAL.training.learning_rate == 3e-5
    assert ORIGINAL.training.batch_size == 8
    assert ORIGINAL.training.loss == "all_positions"
    assert ORIGINAL.data.image_size == ORIGINAL.data.resize == 380
    assert ORIGINAL.data.max_length == 36
