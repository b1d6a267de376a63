"""EfficientDet-D0 on COCO's boxes, for --init-from of a captioner."""

from dualcap_jax.data.boxes.config import BoxesConfig
from dualcap_jax.detector import DetectorExperiment
from dualcap_jax.models.detector import DetectorConfig
from dualcap_jax.models.encoders import EfficientDetConfig
from dualcap_jax.training.detection import DetectorTrainingConfig


def get_config() -> DetectorExperiment:
    """Twelve epochs of train2017; give --data.root, and --model.encoder.pretrained to begin with published weights."""
    return DetectorExperiment(
        model=DetectorConfig(EfficientDetConfig("d0"), dtype="bfloat16"),
        data=BoxesConfig(image_size=512, flip=True, read_threads=8),
        training=DetectorTrainingConfig(
            steps=44_400,  # 12 x 118,287 images
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=1000,
            weight_decay=4e-5,
            average=0.9998,
            validate_every=3700,
            checkpoint_every=1850,
        ),
    )
