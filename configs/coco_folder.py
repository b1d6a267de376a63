"""A few hundred captioned images of one's own, learnt from scratch on a laptop until they are known by heart.

python -m dualcap_jax.train --config configs/coco_folder.py --data.root FOLDER

FOLDER is a COCO layout, or holds captions.jsonl or captions.csv. What was learnt by heart is in the latest checkpoint;
the best one is that of the lowest loss on images not seen:

    python -m dualcap_jax.evaluate RUN --split train --checkpoint latest
"""

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.config import DataConfig
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import EfficientNetConfig
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.mergers import MergerConfig
from dualcap_jax.training.config import TrainingConfig


def get_config() -> ExperimentConfig:
    """No dropout anywhere: the aim is to reproduce the captions seen."""
    return ExperimentConfig(
        model=ModelConfig(
            encoder=EfficientNetConfig(
                variant="b0",
                width=0.5,
                depth=0.5,
                num_classes=256,
                dropout=0.0,
                drop_connect=0.0,
                batch_norm_momentum=0.9,  # a thousand steps are too few for 0.99
            ),
            language=GPT2Config(max_positions=64, width=192, layers=3, heads=6, dropout=0.0),
            merger=MergerConfig(hidden=(384, 256), positions=64),
        ),
        data=DataConfig(image_size=96, max_length=64, vocab_size=1024),
        training=TrainingConfig(
            steps=700,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=50,
            validate_every=350,
            checkpoint_every=350,
        ),
        # early_stopping=True would end the search once five captions are finished, and short wrong ones finish first.
        decoding=DecodingConfig(num_beams=5, max_length=64, early_stopping=False),
    )
