"""The configuration of the data: which set, how its images and captions are prepared, how they are read."""

from dataclasses import dataclass, field
from typing import Literal

from dualcap_jax.data.transform import ImageTransform, Interpolation
from dualcap_jax.errors import require
from dualcap_jax.fields import check_types


@dataclass(frozen=True)
class ScenesConfig:
    """The embedded set of drawn scenes (`data.root` empty)."""

    train: int = 20_000
    """Scenes to train on, five captions each."""
    validation: int = 200
    """Scenes to validate on: other images of the same kind."""
    test: int = 500
    """Scenes to test on: each holds a (count, colour, shape) combination that training never shows."""
    max_groups: int = 4
    """Groups of shapes in a scene, at most (1 to 4)."""
    picture_size: int | None = None
    """Side of the drawn images in pixels; None: data.resize, else data.image_size."""
    seed: int = 0
    """Seed that the set is made from."""

    def __post_init__(self) -> None:
        """Check each field."""
        check_types(self, "data.scenes.")
        for name in ("train", "validation", "test"):
            value = getattr(self, name)
            require(value >= 1, f"data.scenes.{name}", value, "must be at least 1")
        require(1 <= self.max_groups <= 4, "data.scenes.max_groups", self.max_groups, "must be 1 to 4")
        if self.picture_size is not None:
            side = self.picture_size
            require(side >= 16, "data.scenes.picture_size", side, "must be at least 16 (shapes vanish below)")


@dataclass(frozen=True)
class DataConfig:
    """Which images and captions, and how they reach the model."""

    root: str = ""
    """Directory of the set: a COCO layout, or a folder with captions.jsonl or captions.csv. Empty: the
    embedded scenes."""
    image_size: int = 64
    """Side in pixels of the square image that the encoder reads."""
    resize: int | None = None
    """Length in pixels that the shorter side is resized to before the centre crop; None: what belongs to the
    encoder's pretrained weights, without them image_size."""
    interpolation: Interpolation | None = None
    """How it is resized; None: what belongs to the encoder's pretrained weights, without them bilinear."""
    crop_scale: float = 1.0
    """Augmentation: smallest share of a training image's area that a random crop keeps; 1: none (the original's).
    Nothing is flipped: captions tell left from right, and images hold writing."""
    max_length: int = 30
    """Tokens of a caption at most, both framing tokens included (the original's: 36); what is longer loses its end."""
    captions_per_image: int = 1
    """1: an example is one (image, caption) pair. C > 1: an example is an image with C of its captions, drawn
    anew each epoch (all of them where it has fewer), and is encoded once for all of them."""
    tokenizer: str = ""
    """GPT-2 vocabulary: a Hugging Face hub name or a local directory. Empty: that of the language model's pretrained
    weights; without them one trained on the set's captions."""
    vocab_size: int = 512
    """Tokens of the vocabulary that is trained when `tokenizer` is empty."""
    on_error: Literal["raise", "skip"] = "raise"
    """A broken or missing image or caption: stop and name it, or skip it, count and report."""
    validation_fraction: float = 0.1
    """Share of the images kept for validation where captions.jsonl or captions.csv names no splits."""
    split_seed: int = 0
    """Seed of that choice."""
    read_threads: int = 2
    """Threads that read and decode images; 0: the training thread does it."""
    workers: int = 0
    """Processes that read and decode images, each with `read_threads` threads; 0: none but the main one."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """The embedded scenes."""

    def __post_init__(self) -> None:
        """Check each field."""
        check_types(self, "data.")
        require(self.image_size >= 1, "data.image_size", self.image_size, "must be at least 1")
        if self.resize is not None:
            message = f"crop larger than the image: must be at least data.image_size={self.image_size}"
            require(self.resize >= self.image_size, "data.resize", self.resize, message)
        require(0 < self.crop_scale <= 1, "data.crop_scale", self.crop_scale, "must be more than 0 and at most 1")
        message = "must be at least 3 (a token between the two framing ones)"
        require(self.max_length >= 3, "data.max_length", self.max_length, message)
        captions = self.captions_per_image
        require(captions >= 1, "data.captions_per_image", captions, "must be at least 1")
        message = "must be at least 257 (every byte and the framing token)"
        require(self.vocab_size >= 257, "data.vocab_size", self.vocab_size, message)
        fraction = self.validation_fraction
        require(0 <= fraction < 1, "data.validation_fraction", fraction, "must be at least 0 and less than 1")
        for name in ("read_threads", "workers"):
            value = getattr(self, name)
            require(value >= 0, f"data.{name}", value, "must be at least 0")

    @property
    def transform(self) -> ImageTransform:
        """From an image as it was published to what the encoder reads."""
        return ImageTransform(self.image_size, self.resize or self.image_size, self.interpolation or "bilinear")
