"""The original's experiment, knob for knob: EfficientNet-B4 at 380 px and GPT-2 small on COCO 2017.

python -m dualcap_jax.train --config configs/coco_b4_gpt2.py --data.root COCO_DIRECTORY
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
    """The original's settings."""
    return ExperimentConfig(
        model=ModelConfig(
            # 1000 class logits as the image vector; dropout 0.4 and drop-connect 0.2 come with B4.
            encoder=EfficientNetConfig(
                variant="b4",
                pretrained="timm/tf_efficientnet_b4.ap_in1k",  # AdvProp
                num_classes=1000,
                dropout=None,
                drop_connect=0.2,
                remat="blocks",
            ),
            language=GPT2Config(pretrained="gpt2", remat="blocks"),  # GPT-2 small
            merger=MergerConfig(kind="skip_mlp"),  # 384 and 256, the published widths
        ),
        data=DataConfig(
            root="data/coco2017",
            image_size=380,  # B4's own
            resize=380,  # the shorter side; then the centre crop, of all that is left
            interpolation="bilinear",
            max_length=36,  # cuts about 0.1% of the captions
            captions_per_image=1,  # shuffled (image, caption) pairs
        ),
        training=TrainingConfig(
            steps=147_938,  # 2 epochs of 591,753 captions; a third overfits
            batch_size=8,
            learning_rate=3e-5,
            schedule="constant",
            warmup_steps=0,
            clip_norm=0.0,
            loss="all_positions",  # padding counted as token 0
            validate_every=4000,
            checkpoint_every=4000,
            log_every=100,
        ),
        # The original's generate() stopped at 20 tokens, its library's default then.
        decoding=DecodingConfig(num_beams=5, no_repeat_ngram_size=2, early_stopping=True, max_length=20),
    )
