"""Which images with boxes, and how they reach the detector."""

from dataclasses import dataclass, field

from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.data.reading import LoadingConfig, part
from dualcap_jax.errors import require
from dualcap_jax.fields import check_types


@dataclass(frozen=True)
class BoxesConfig(LoadingConfig):
    """Which images with boxes, and how they reach the detector."""

    root: str = ""
    """Directory of COCO's layout: annotations/instances_train*.json and instances_val*.json, the images beside them.
    Empty: the embedded scenes, whose boxes are known."""
    image_size: int = 64
    """Side in pixels of the square that an image is resized to, whatever its proportions."""
    flip: bool = False
    """Mirror every second training image, chosen at random, with its boxes."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """The embedded scenes."""

    def __post_init__(self) -> None:
        """Check each field."""
        super().__post_init__()
        check_types(self, "data.")
        require(self.image_size >= 1, "data.image_size", self.image_size, "must be at least 1")

    @property
    def images(self) -> DataConfig:
        """The images alone."""
        return DataConfig(self.root, self.image_size, scenes=self.scenes, **vars(part(LoadingConfig, self)))
