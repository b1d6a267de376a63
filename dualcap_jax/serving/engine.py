"""The captioner as a server uses it: few fixed shapes, each compiled once."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.errors import ConfigError, UserError
from dualcap_jax.serving.config import ServingConfig

Shape = tuple[int, int, int]
"""What a compiled search hangs on: beams, longest caption, tokens of the prompt."""


@dataclass(frozen=True)
class Settings:
    """What a request may choose of a search. Images with equal ones are searched together."""

    num_beams: int
    max_length: int
    prompt: str = ""
    explain: bool = False


class Engine:
    """Captions images in batches of few sizes.

    Args:
        captioner: a trained network.
        config: the server's.
    """

    def __init__(self, captioner: Captioner, config: ServingConfig):
        usual = captioner.config.decoding
        positions = captioner.config.model.language.max_positions
        self.captioner, self._sizes, self._max_prompt = captioner, config.sizes, config.max_prompt
        self.usual = Settings(usual.num_beams, usual.max_length)
        self.beams = tuple(sorted({*config.beams, usual.num_beams}))
        self.lengths = tuple(sorted({*config.lengths, usual.max_length}))
        if self.lengths[-1] > positions:
            raise ConfigError(f"--lengths {self.lengths[-1]}: the language model has {positions} positions")
        self.compiled: dict[Shape, list[int]] = {}
        """Sizes of batches by what is compiled for them."""

    def shape(self, settings: Settings) -> Shape:
        """What its search hangs on.

        Raises:
            ConfigError: its prompt is too long.
        """
        tokens = self._prompt_tokens(settings.prompt)
        room = min(self._max_prompt, settings.max_length - 2)
        if tokens > room:
            raise ConfigError(f"prompt: {tokens} tokens; must be at most {room}")
        return settings.num_beams, settings.max_length, tokens

    def _prompt_tokens(self, prompt: str) -> int:
        captioner = self.captioner
        if not prompt.strip():
            return 0
        return len(captioner.tokenizer.encode(captioner.config.data.styled(prompt), sys.maxsize)) - 2

    def compile(self, settings: Settings, size: int) -> None:
        """Compile a search of so many images, with explanations and without."""
        side = self.captioner.config.data.image_size
        self._search(replace(settings, explain=True), [np.zeros((side, side, 3), np.uint8)] * size)
        self.compiled.setdefault(self.shape(settings), []).append(size)

    def caption(self, settings: Settings, images: Sequence[UInt8[np.ndarray, "size size 3"]]) -> list[Caption]:
        """Caption prepared images, each with all `num_beams` captions, in batches of the sizes compiled so far.

        Args:
            settings: compiled for at least one size.
            images: as `Captioner.prepare` makes them.
        """
        compiled = sorted(self.compiled[self.shape(settings)])
        captions: list[Caption] = []
        while left := images[len(captions) :]:
            size = next((size for size in compiled if size >= len(left)), compiled[-1])
            chunk = list(left[:size])
            captions += self._search(settings, chunk + chunk[-1:] * (size - len(chunk)))[: len(chunk)]
        return captions

    def _search(self, settings: Settings, images: Sequence[np.ndarray]) -> list[Caption]:
        decoding = replace(
            self._usual_decoding(),
            num_beams=settings.num_beams,
            num_return_sequences=settings.num_beams,
            max_length=settings.max_length,
            prompt=settings.prompt,
        )
        return self.captioner.caption_batch(np.stack(images), decoding, settings.explain)

    def _usual_decoding(self) -> DecodingConfig:
        """The run's own search, less what a server does not offer."""
        usual = self.captioner.config.decoding
        return replace(
            usual,
            num_beam_groups=1,
            diversity_penalty=0.0,
            do_sample=False,
            min_length=min(usual.min_length, self.lengths[0]),
        )

    def check_caption(self, caption: str) -> None:
        """Refuse a caption that can't be explained.

        Raises:
            UserError: it is empty or too long.
        """
        captioner = self.captioner
        tokens = len(captioner.tokenizer.encode(captioner.config.data.styled(caption), sys.maxsize))
        longest = max(captioner.config.data.max_length, captioner.config.decoding.max_length)
        if not caption.strip():
            raise UserError("caption: is empty")
        if tokens > longest:
            raise UserError(f"caption: {tokens} tokens; must be at most {longest}")

    def compile_explaining(self) -> None:
        """Compile what the captioner's `explain` and `grad_cam` need."""
        side = self.captioner.config.data.image_size
        image = Image.new("RGB", (side, side))
        self.captioner.explain(image, "a")
        self.captioner.grad_cam(image, "a", 0)
