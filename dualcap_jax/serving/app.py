"""The HTTP app: paths, what they take, what they give."""

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from dualcap_jax.errors import UserError
from dualcap_jax.serving import schemas
from dualcap_jax.serving.batcher import Closed, QueueFull
from dualcap_jax.serving.config import ServingConfig
from dualcap_jax.serving.engine import Engine, Settings
from dualcap_jax.serving.examples import draw_examples
from dualcap_jax.serving.guard import Guard
from dualcap_jax.serving.metrics import Metrics
from dualcap_jax.serving.problems import Problem, busy
from dualcap_jax.serving.service import Service

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ProblemResponse, "content": {"application/problem+json": {}}}
    for status in (401, 408, 413, 415, 422, 429, 503)
}


class _InMemory(MultiPartParser):
    """Starlette's parser, which never writes what is sent to disk."""

    spool_max_size = 2**62


def create_app(engine: Engine, config: ServingConfig, about: dict[str, Any], token: str = "") -> Guard:
    """The server as an ASGI app.

    Args:
        engine: captions.
        config: the server's.
        about: what `info.about` tells of the run.
        token: the secret that clients must send; empty: none.
    """
    metrics = Metrics()
    service = Service(engine, config, metrics)
    settings = schemas.caption_settings(engine)
    caption_request = schemas.with_images(settings, "CaptionRequest", config.batch_size)
    explain_request = schemas.with_images(schemas.ExplainSettings, "ExplainRequest", None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="dualcap_jax",
        version=version("dualcap-jax"),
        description="Captions of images, and what in an image each word comes from.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
    )

    @app.post("/v1/caption", responses=_PROBLEMS, openapi_extra=_body(caption_request, settings, "images"))
    async def caption(request: Request) -> schemas.CaptionsResponse:
        """Caption one image or several."""
        images, values = await _read(request, caption_request, settings, "images")
        if not 1 <= len(images) <= config.batch_size:
            raise Problem(422, f"images: {len(images)}; must be 1 to {config.batch_size}")
        count = values.num_return_sequences
        if count > values.num_beams:
            raise Problem(422, f"num_return_sequences: {count}; must be at most num_beams, {values.num_beams}")
        asked = Settings(values.num_beams, values.max_length, values.prompt, values.explain)
        captions = await service.caption(images, asked, count)
        return schemas.CaptionsResponse.model_validate({"captions": [schemas.told(each) for each in captions]})

    @app.post(
        "/v1/explain", responses=_PROBLEMS, openapi_extra=_body(explain_request, schemas.ExplainSettings, "image")
    )
    async def explain(request: Request) -> schemas.ExplainResponse:
        """How much of each word of any caption an image gives, and where."""
        images, values = await _read(request, explain_request, schemas.ExplainSettings, "image")
        if len(images) != 1:
            raise Problem(422, f"image: {len(images)} images; must be one")
        seen, words, maps = await service.explain(images[0], values.caption, values.words)
        told = [
            schemas.of_word(word) | {"map": _grey_png(maps[place]) if place in maps else None}
            for place, word in enumerate(words)
        ]
        return schemas.ExplainResponse.model_validate({"image": _png(seen), "words": told})

    @app.get("/v1/model", responses={401: _PROBLEMS[401]})
    async def model() -> schemas.ModelResponse:
        """The network, and the bounds of requests."""
        return schemas.ModelResponse(
            parts={part: each | {"kind": each["kind"].partition(",")[0]} for part, each in about["parts"].items()},
            data=Path(about["data"]).name,
            step=engine.captioner.step,
            image_size=about["image_size"],
            num_beams=list(engine.beams),
            max_length=list(engine.lengths),
            usual={"num_beams": engine.usual.num_beams, "max_length": engine.usual.max_length},
            max_prompt=config.max_prompt,
            max_images=config.batch_size,
            max_upload=config.max_bytes,
            max_pixels=config.max_pixels,
        )

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "up"}

    @app.get("/readyz", responses={503: _PROBLEMS[503]})
    async def readyz() -> dict[str, str]:
        """Whether the usual search is compiled."""
        if not service.ready:
            raise busy("compiling", 503, 2)
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _add_page(app)
    for kind, response in (
        (Problem, lambda problem: problem.response()),
        (UserError, lambda error: Problem(422, str(error)).response()),
        (QueueFull, lambda _: busy("too many images wait").response()),
        (Closed, lambda _: busy("the server is stopping", 503).response()),
        (HTTPException, lambda error: Problem(error.status_code, str(error.detail), error.headers).response()),
        (Exception, lambda _: Problem(500, "the server failed; its log says why").response()),
    ):
        app.add_exception_handler(kind, _answered_by(response))  # type: ignore[arg-type]
    return Guard(app, config, metrics, token)


def _answered_by(response: Any) -> Any:
    async def handle(request: Request, error: Exception) -> Response:
        return response(error)

    return handle


def _body(request: type[BaseModel], settings: type[BaseModel], field: str) -> dict[str, Any]:
    """The two forms of a request for the OpenAPI document: JSON, and multipart/form-data with files."""
    form, file = settings.model_json_schema(), {"type": "string", "format": "binary"}
    form["properties"][field] = {"type": "array", "items": file, "minItems": 1} if field == "images" else file
    form["required"] = [*form.get("required", ()), field]
    forms = {"application/json": request.model_json_schema(), "multipart/form-data": form}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in forms.items()}}}


async def _read(
    request: Request, model: type[BaseModel], settings: type[BaseModel], field: str
) -> tuple[list[bytes], Any]:
    """Images and settings of a request.

    Raises:
        Problem: it can't be read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        values = schemas.checked(model, await request.body())
        encoded = getattr(values, field)
        return [schemas.from_base64(each) for each in ([encoded] if isinstance(encoded, str) else encoded)], values
    if kind != "multipart/form-data":
        raise Problem(415, f"content-type {kind or 'is missing'}: send application/json or multipart/form-data")
    try:
        form: FormData = await _InMemory(request.headers, request.stream(), max_files=64, max_fields=64).parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise Problem(422, f"no multipart/form-data: {getattr(error, 'message', error)}") from None
    images, others = [], dict[str, Any]()
    for name, value in form.multi_items():
        if name == field and isinstance(value, UploadFile):
            images.append(await value.read())
        elif isinstance(value, UploadFile) or name == field:
            raise Problem(422, f"{name}: send {field} as files and settings as text")
        else:
            others[name] = [*others.get(name, ()), *filter(None, [value])] if name == "words" else value
    return images, schemas.checked(settings, others)


def _add_page(app: FastAPI) -> None:
    """The page and what it loads, all from memory."""
    page = files("dualcap_jax.serving").joinpath("page")
    found = {each.name: each.read_bytes() for each in page.iterdir() if each.name.partition(".")[2] in _TYPES}
    examples = draw_examples()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(found["index.html"], media_type="text/html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in found:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no {name} here")
        return Response(found[name], media_type=_TYPES[name.partition(".")[2]], headers={"Cache-Control": "no-cache"})

    @app.get("/examples", include_in_schema=False)
    async def listed() -> JSONResponse:
        return JSONResponse([f"examples/{place}.png" for place in range(len(examples))])

    @app.get("/examples/{place}.png", include_in_schema=False)
    async def example(place: int) -> Response:
        if not 0 <= place < len(examples):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no example {place}")
        return Response(examples[place], media_type="image/png", headers={"Cache-Control": "max-age=3600"})


def _png(pixels: np.ndarray) -> str:
    """An image as a data: URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _grey_png(values: np.ndarray) -> str:
    """Values from 0 to 1 as a data: URL."""
    return _png((values * 255).round().astype(np.uint8))
