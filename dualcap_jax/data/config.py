"""The configuration of the data: which set, how its images and captions are prepared, how they are read."""

from dataclasses import dataclass, field

from dualcap_jax.data.reading import ImagesConfig, LoadingConfig, part
from dualcap_jax.data.transform import ImageTransform, Interpolation
from dualcap_jax.errors import require
from dualcap_jax.fields import check_types


@dataclass(frozen=True)
class ScenesConfig:
    """The embedded set of drawn scenes (`data.root` empty)."""

    train: int = 20_000
    """Number of scenes to train on, five captions each."""
    validation: int = 200
    """Number of scenes to validate on; other images of the same kind."""
    test: int = 500
    """Number of scenes to test on; each holds a combination of count, colour and shape that training never shows."""
    max_groups: int = 4
    """Most groups of shapes in a scene, 1 to 4."""
    picture_size: int | None = None
    """Side in pixels that scenes are drawn at. None: data.resize, or data.image_size without it."""
    seed: int = 0
    """Seed that the scenes are made from."""

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


def plain_caption(text: str) -> str:
    """Make it lower case, without the full stop at its end."""
    return text.strip().removesuffix(".").rstrip().lower()


@dataclass(frozen=True)
class DataConfig(LoadingConfig):
    """Which images and captions, and how they reach the model."""

    root: str = ""
    """Directory of the images and captions: captions.jsonl or captions.csv beside the images, COCO, Flickr8k,
    Flickr30k, a text beside each image, or another layout of docs/data.md. Empty: the embedded scenes."""
    image_size: int = 64
    """Side in pixels of the square image that the encoder reads."""
    resize: int | None = None
    """Length in pixels that an image's shorter side is resized to before the centre crop. None: what the encoder's
    pretrained weights expect, or data.image_size without them."""
    interpolation: Interpolation | None = None
    """Filter that resizes images. None: what the encoder's pretrained weights expect, or bilinear without them."""
    crop_scale: float = 1.0
    """Smallest share of a training image's area that a random crop keeps. 1 turns random crops off, as the original
    did."""
    crop_share: float = 1.0
    """Share of the training images that random crops are taken of; the others stay whole, as in evaluation."""
    flip: bool = False
    """Mirror every second training image, chosen at random. Leave it off where captions tell left from right."""
    views: int = 0
    """Random views (crops, mirrored or not) of each training image that a frozen encoder encodes once; each epoch takes
    the next of them. 0: new ones at each epoch, encoded anew. Without random crops and mirroring there is one view."""
    max_length: int = 30
    """Most tokens of a caption, both framing tokens included; a longer caption loses its end. The original's: 36."""
    plain: bool = False
    """Learn captions in lower case and without the full stop at their end, as COCO's metrics compare them: fewer tokens
    to learn from few captions."""
    captions_per_image: int = 1
    """Captions in a training example. 1: an example is one (image, caption) pair. More: an example is an image,
    encoded once, with so many of its captions, drawn anew each epoch."""
    tokenizer: str = ""
    """GPT-2 vocabulary to use: a name on the Hugging Face hub or a directory. Empty: the language model's own where
    it is pretrained, or one trained on the captions."""
    vocab_size: int = 512
    """Tokens in the vocabulary that is trained on the captions; unused where a tokenizer is given."""
    validation_fraction: float = 0.1
    """Share of the images kept for validation where the set names no splits."""
    split_seed: int = 0
    """Seed that chooses which images are kept for validation where the set names no splits."""
    features: str = "auto"
    """Directory of what a frozen encoder makes of the images, which is then computed once instead of at each epoch,
    unless each epoch has new views (data.views). auto: features/ in the run directory. none: at each epoch."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """The embedded scenes."""

    def __post_init__(self) -> None:
        """Check each field."""
        super().__post_init__()
        check_types(self, "data.")
        require(self.image_size >= 1, "data.image_size", self.image_size, "must be at least 1")
        if self.resize is not None:
            message = f"crop larger than the image: must be at least data.image_size={self.image_size}"
            require(self.resize >= self.image_size, "data.resize", self.resize, message)
        for name in ("crop_scale", "crop_share"):
            require(
                0 < getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "must be more than 0 and at most 1"
            )
        message = "must be at least 3 (a token between the two framing ones)"
        require(self.max_length >= 3, "data.max_length", self.max_length, message)
        captions = self.captions_per_image
        require(captions >= 1, "data.captions_per_image", captions, "must be at least 1")
        message = "must be at least 257 (every byte and the framing token)"
        require(self.vocab_size >= 257, "data.vocab_size", self.vocab_size, message)
        fraction = self.validation_fraction
        require(0 <= fraction < 1, "data.validation_fraction", fraction, "must be at least 0 and less than 1")
        require(self.views >= 0, "data.views", self.views, "must be at least 0")

    def styled(self, caption: str) -> str:
        """A caption as it is learnt."""
        return plain_caption(caption) if self.plain else caption

    @property
    def augments(self) -> bool:
        """Whether training images are randomly cropped or mirrored."""
        return self.crop_scale < 1 or self.flip

    @property
    def transform(self) -> ImageTransform:
        """From an image as it was published to what the encoder reads."""
        resize, interpolation = self.resize or self.image_size, self.interpolation or "bilinear"
        return ImageTransform(self.image_size, resize, interpolation, part(ImagesConfig, self))
