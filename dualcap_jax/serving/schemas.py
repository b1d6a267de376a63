"""What the API takes and gives, as the OpenAPI document tells it."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from dualcap_jax.captioner import Caption
from dualcap_jax.explain.words import Word
from dualcap_jax.serving.engine import Engine
from dualcap_jax.serving.problems import Problem


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", title="Settings")


class ExplainSettings(_Request):
    """What to explain of an image."""

    caption: str = Field(max_length=2000, description="Any caption, the network's own or another.")
    words: list[int] | None = Field(
        None,
        max_length=64,
        description="Places, from 0, of the words to map; null: all; [], or an empty field of a form: none.",
    )


class WordResponse(BaseModel):
    """A word of a caption and where it comes from."""

    text: str
    log_prob: float = Field(description="Log-probability of its tokens, in nats.")
    blind_log_prob: float = Field(description="The same with the average image.")
    language_log_prob: float = Field(description="The same under the language model alone.")
    seen: float = Field(description="What the image added: log_prob - blind_log_prob. About 0: the word was guessed.")


class CaptionResponse(BaseModel):
    """A caption."""

    text: str
    score: float = Field(description="What captions are ranked by.")
    log_prob: float = Field(description="Log-probability of the whole caption after the prompt, in nats.")
    words: list[WordResponse] = Field(description="Its words, where explain was asked for.")


class BestCaptionResponse(CaptionResponse):
    """The best caption of an image."""

    others: list[CaptionResponse] = Field(description="The next best, where more than one was asked for.")


class CaptionsResponse(BaseModel):
    """A caption for each image, in the order sent."""

    captions: list[BestCaptionResponse]


class ExplainedWordResponse(WordResponse):
    """A word and its map."""

    map: str | None = Field(description="data: URL of a grey PNG as large as `image`: the places that speak for it.")


class ExplainResponse(BaseModel):
    """What an image gave each word of a caption."""

    image: str = Field(description="data: URL of a PNG: what the network saw, the middle of the image sent.")
    words: list[ExplainedWordResponse]


class PartResponse(BaseModel):
    """A part of the network."""

    kind: str
    parameters: int


class ModelResponse(BaseModel):
    """The network that answers, and what may be asked of it."""

    parts: dict[str, PartResponse]
    data: str = Field(description="What it was trained on.")
    step: int = Field(description="Training steps.")
    image_size: int = Field(description="Side of the square it sees, in pixels.")
    num_beams: list[int]
    max_length: list[int]
    usual: dict[str, int] = Field(description="num_beams and max_length of a request that names none.")
    max_prompt: int = Field(description="Most tokens of a prompt.")
    max_images: int = Field(description="Most images of a request.")
    max_upload: int = Field(description="Largest body of a request, in bytes.")
    max_pixels: int = Field(description="Most pixels of an image.")


class ProblemResponse(BaseModel):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def caption_settings(engine: Engine) -> type[BaseModel]:
    """What a request may set of a search by this engine."""
    usual = engine.usual

    def one_of(allowed: Sequence[int]) -> Any:
        def check(value: int) -> int:
            if value not in allowed:
                raise ValueError(f"must be {' or '.join(map(str, allowed))}")
            return value

        return Annotated[int, AfterValidator(check), Field(json_schema_extra={"enum": list(allowed)})]

    return create_model(
        "CaptionSettings",
        __base__=_Request,
        __doc__="How captions are searched for.",
        num_beams=(one_of(engine.beams), Field(usual.num_beams, description="Hypotheses kept alive. 1: greedy.")),
        num_return_sequences=(
            int, Field(1, ge=1, le=engine.beams[-1], description="Captions of each image, at most num_beams."),
        ),
        max_length=(one_of(engine.lengths), Field(usual.max_length, description="Longest caption, in tokens.")),
        prompt=(str, Field("", max_length=200, description="Text that every caption begins with.")),
        explain=(bool, Field(False, description="Give each caption's words, and what the image gave each.")),
    )  # fmt: skip


def with_images(settings: type[BaseModel], name: str, most: int | None) -> type[BaseModel]:
    """Settings and images in base64, as JSON holds both: a list `images` of at most so many, or one `image`."""
    encoded = Field(description="An image file in base64.")
    field: Any = (str, encoded)
    if most is not None:
        field = (list[Annotated[str, encoded]], Field(min_length=1, max_length=most))
    return create_model(name, __base__=settings, **{"image" if most is None else "images": field})  # type: ignore[call-overload]


def checked(model: type[BaseModel], values: Any) -> Any:
    """Values as an instance of a model; text is taken as JSON.

    Raises:
        Problem: they do not fit, 422 with each field's name.
    """
    try:
        return model.model_validate_json(values) if isinstance(values, bytes) else model.model_validate(values)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False, include_input=False)[:5]
        ]
        raise Problem(422, "; ".join(found)) from None


def from_base64(text: str) -> bytes:
    """An image's bytes.

    Raises:
        Problem: the text is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, "images: no base64; send the bytes of image files in base64") from None


def told(caption: Caption) -> dict[str, Any]:
    """A caption as `CaptionResponse` and `BestCaptionResponse` have it."""
    return {
        "text": caption.text,
        "score": caption.score,
        "log_prob": caption.log_prob,
        "words": [of_word(each) for each in caption.words],
        "others": [told(each) for each in caption.others],
    }


def of_word(word: Word) -> dict[str, Any]:
    """A word as `WordResponse` has it."""
    return {**vars(word), "seen": word.seen}
