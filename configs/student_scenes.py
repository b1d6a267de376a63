"""A student of the embedded experiment, a fifth of its size, which sees images of 48 pixels.

    python -m dualcap_jax.train --workdir runs/scenes
    python -m dualcap_jax.train --config configs/student_scenes.py --training.objective distillation \\
        --training.teacher runs/scenes

`scripts/student.py` compares it with its teacher, and with students that learn otherwise.
"""

from dataclasses import replace

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.encoders import EfficientNetConfig
from dualcap_jax.models.language_models import GPT2Config


def get_config() -> ExperimentConfig:
    """Fewer channels and layers in all three parts, fewer pixels, and the simplest search."""
    base = ExperimentConfig()
    encoder = EfficientNetConfig(
        variant="b0",
        width=0.25,
        depth=0.25,
        num_classes=128,
        dropout=0.0,
        drop_connect=0.0,
        batch_norm_momentum=0.95,
    )
    language = GPT2Config(
        vocab_size=512, max_positions=64, width=48, layers=1, heads=4, dropout=0.0, init_deviation=0.1
    )
    merger = replace(base.model.merger, hidden=(64, 64), grid=6)  # 48 pixels at stride 8
    model = replace(base.model, encoder=encoder, language=language, merger=merger)
    data = replace(base.data, image_size=48, scenes=replace(base.data.scenes, picture_size=64))
    return replace(base, model=model, data=data, decoding=replace(base.decoding, num_beams=1))
