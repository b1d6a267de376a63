"""What a user imports: images in, captions with scores out."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8
from PIL import Image
from safetensors.numpy import save_file

from dualcap_jax.config import ExperimentConfig, load_json, save_json
from dualcap_jax.data.images import decode_image, upright_rgb
from dualcap_jax.data.text import CaptionTokenizer, load_tokenizer
from dualcap_jax.decoding.beam_search import BeamSearchResult, beam_search
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.decoding.sampling import sample
from dualcap_jax.errors import ConfigError
from dualcap_jax.explain import STRIDES, Word, find_word, join_words, log_probs, usual_stride, word_map, word_spans
from dualcap_jax.files import replacing, write_text
from dualcap_jax.pretrained.files import locate, read_tensors
from dualcap_jax.pretrained.tables import PretrainedError, export, own_table, port
from dualcap_jax.training.checkpoints import Which, restore_model
from dualcap_jax.training.step import graph, model_shapes

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray
"""A path, an encoded picture (JPEG, PNG, WebP, ...), a PIL image or an array uint8 [height, width, 3]."""


@dataclass(frozen=True)
class Caption:
    """One caption of one picture."""

    text: str
    score: float
    """What hypotheses are ranked by: their log-probability, as constrained, / generated tokens ** length_penalty."""
    log_prob: float
    """Log-probability of the whole caption after the prompt, its end included, in nats."""
    tokens: tuple[str, ...] = ()
    """What was generated, token by token, the end left out; a token that begins a word begins with a space."""
    token_log_probs: tuple[float, ...] = ()
    """Log-probability of each of them and, last, of the end where it was reached, in nats."""
    words: tuple[Word, ...] = ()
    """Each word, prompt included, and how much of it was seen; where that was asked for."""
    others: tuple["Caption", ...] = ()
    """The next best, where more than one was asked for."""


def _open(picture: Picture) -> Image.Image:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        return upright_rgb(picture)
    return decode_image(picture if isinstance(picture, bytes) else Path(picture).read_bytes())


def _text(caption: Caption | str) -> str:
    return caption if isinstance(caption, str) else caption.text


@partial(jax.jit, static_argnames=("graphdef", "decoding", "end_id", "bad_words"))
def _search(
    model: dict[str, Any],
    images,
    start,
    keys,
    *,
    graphdef: nnx.GraphDef,
    decoding: DecodingConfig,
    end_id,
    bad_words,
):
    network = nnx.merge(graphdef, model["params"], model["batch_stats"], copy=True)
    batch = images.shape[0]
    beams = decoding.num_return_sequences if decoding.do_sample else decoding.num_beams
    about = (
        network.next_logits,
        network.reorder_cache,
        network.init_cache(batch, beams, decoding.max_length),
        network.encode(images),
        jnp.broadcast_to(start, (batch, len(start))),
    )
    settings = {"config": decoding, "end_id": end_id, "pad_id": end_id, "bad_words": bad_words}
    if decoding.do_sample:
        return sample(*about, keys, **settings)
    return beam_search(*about, **settings)


class Captioner:
    """A trained network with its tokenizer.

    Args:
        config: of the experiment it was trained in.
        model: params and batch_stats, nested dicts of arrays.
        tokenizer: the run's.
        step: training step that the model is of.
    """

    def __init__(self, config: ExperimentConfig, model: dict[str, Any], tokenizer: CaptionTokenizer, step: int):
        self.config, self.model, self.tokenizer, self.step = config, model, tokenizer, step
        self._graphdef = graph(config.model)

    @classmethod
    def load(cls, workdir: str | os.PathLike, checkpoint: Which = "best") -> "Captioner":
        """The captioner of a run directory.

        Args:
            workdir: what `python -m dualcap_jax.train` wrote, or `save_pretrained`.
            checkpoint: "best" by validation loss, or "latest".

        Raises:
            ConfigError: when `workdir` is no run directory.
            CheckpointError: when it has no checkpoint yet.
        """
        workdir = Path(workdir)
        if (workdir / "model.safetensors").is_file():
            return cls.from_pretrained(workdir)
        if not (workdir / "config.json").is_file():
            raise ConfigError(f"{workdir}: not a run directory (no config.json in it)")
        config = load_json(workdir / "config.json")
        shapes = model_shapes(config.model)
        model, step = restore_model(workdir, shapes, checkpoint)
        return cls(config, model, load_tokenizer(workdir / "tokenizer"), step)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, revision: str | None = None) -> "Captioner":
        """The captioner that `save_pretrained` wrote.

        Args:
            source: a directory, or the name of a model on the Hugging Face hub.
            revision: of the hub's model: a branch, tag or commit.

        Raises:
            ConfigError: when the directory's config.json is not a captioner's.
            DataError: when its tokenizer is not whole.
            PretrainedError: when it cannot be had, or the weights do not fit the config.
        """
        directory = locate(str(source), revision)
        if not (directory / "config.json").is_file():
            raise PretrainedError(f"{source}: no captioner (no config.json in it)")
        config = load_json(directory / "config.json")
        tensors, shapes = dict(read_tensors(directory / "model.safetensors")), model_shapes(config.model)
        step = tensors.pop("step", np.array(0))
        model = port(own_table(shapes), tensors, shapes, str(source))
        return cls(config, jax.tree.map(jnp.asarray, model), load_tokenizer(directory), int(step))

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write config.json, model.safetensors, the tokenizer's files and a model card, for `from_pretrained`.

        Needs no training data and no checkpoint to be read; what the directory held under these names is replaced.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = export(own_table(self.model), self.model) | {"step": np.array(self.step)}
        with replacing(directory / "model.safetensors") as file:
            save_file(tensors, file)
        self.tokenizer.save(directory)
        save_json(self.config, directory / "config.json")
        write_text(directory / "README.md", self._model_card())

    def _model_card(self) -> str:
        config = self.config
        encoder, language = config.model.encoder, config.model.language
        return f"""---
library_name: dualcap_jax
pipeline_tag: image-to-text
---
# An image captioner

EfficientNet ({encoder.variant}, {config.data.image_size} px, started from {encoder.pretrained or "random weights"})
and GPT-2 ({language.layers} layers of {language.width}, started from {language.pretrained or "random weights"}), joined
by a {config.model.merger.kind} merger; trained for {self.step} steps on {config.data.root or "drawn scenes"}.

```python
from dualcap_jax.captioner import Captioner

print(Captioner.from_pretrained("THIS_DIRECTORY")(["picture.jpg"])[0].text)
```
"""

    def __call__(
        self,
        images: Sequence[Picture],
        *,
        explain: bool = False,
        **decoding: Any,
    ) -> list[Caption]:
        """Caption pictures.

        Args:
            images: of any size.
            explain: give each caption's `words`, with what the picture added to each.
            decoding: fields of `DecodingConfig` to change, such as num_beams=1 or num_return_sequences=3.

        Raises:
            ImageError: for the first picture that cannot be read.
        """
        return list(
            self.caption_prepared(map(self.prepare, images), replace(self.config.decoding, **decoding), explain)
        )

    def prepare(self, picture: Picture) -> UInt8[np.ndarray, "size size 3"]:
        """What the network sees of a picture: its middle, resized.

        Raises:
            ImageError: when it cannot be read.
        """
        return self.config.data.transform(_open(picture))

    def explain(self, picture: Picture, caption: Caption | str) -> tuple[Word, ...]:
        """How much of each word of any caption, the network's own or another, this picture gives.

        Raises:
            ImageError: when the picture cannot be read.
            ValueError: for more tokens than the language model has positions.
        """
        return self.explain_prepared(self.prepare(picture), caption)

    def explain_prepared(self, image: UInt8[np.ndarray, "size size 3"], caption: Caption | str) -> tuple[Word, ...]:
        """The same of a picture already of the network's size.

        Raises:
            ValueError: for more tokens than the language model has positions.
        """
        ids, tokens = self._teacher_forced(_text(caption))
        lengths = np.full((1, 1), len(ids))
        of_tokens = log_probs(self.model, image[None], tokens, lengths, graphdef=self._graphdef)
        return join_words(self.tokenizer, ids, [np.asarray(each[0, 0]) for each in of_tokens])

    def grad_cam(
        self, picture: Picture, caption: Caption | str, word: str | int, *, stride: int | None = None
    ) -> Float32[np.ndarray, "size size"]:
        """Which places of a picture speak for a word: Grad-CAM (Selvaraju et al. 2017).

        The gradient of the word's log-probability after the words before it, with respect to the encoder's feature
        maps, averaged over their places, weighs the maps; what is positive of their sum remains.

        Args:
            picture: as for `__call__`.
            caption: the network's own, or any other.
            word: one of its words, whatever its case and the punctuation around it, or its place, from 0; of several
                alike the first.
            stride: of the maps, in pixels: 2, 4, 8, 16 or 32, after the encoder's last layer of that stride. None:
                that of the deepest of at least 7 x 7 places.

        Returns:
            0 to 1 for each pixel of `prepare(picture)`, up from the maps' size by bilinear interpolation; all 0 where
            no place speaks for the word.

        Raises:
            ImageError: when the picture cannot be read.
            WordError: when the caption has no such word.
            ValueError: for another stride, or more tokens than the language model has positions.
        """
        stride = usual_stride(self.config.data.image_size) if stride is None else stride
        if stride not in STRIDES:
            raise ValueError(f"stride={stride}: must be one of {', '.join(map(str, STRIDES))}, or None")
        text = _text(caption)
        place = find_word(text, word)[0]
        ids, tokens = self._teacher_forced(text)
        of_word = np.zeros(tokens.shape[-1] - 1, bool)
        of_word[word_spans(self.tokenizer.pieces(ids[1:]))[place]] = True
        image = self.prepare(picture)
        return np.asarray(word_map(self.model, image, tokens, of_word, graphdef=self._graphdef, stride=stride))

    def _teacher_forced(self, caption: str) -> tuple[list[int], np.ndarray]:
        """Its tokens but the closing one; all of them [1, 1, length], filled up so that one compilation serves most."""
        ids = self.tokenizer.encode(caption, sys.maxsize)
        usual = max(self.config.data.max_length, self.config.decoding.max_length)
        return ids[:-1], np.array([[ids + [self.tokenizer.end_id] * (usual - len(ids))]], np.int32)

    def caption_prepared(
        self, images: Iterable[np.ndarray], decoding: DecodingConfig, explain: bool = False, first: int = 0
    ) -> Iterator[Caption]:
        """Captions of pictures already of the network's size, as they come, batch by batch.

        Args:
            images: uint8 [size, size, 3], as `prepare` makes them.
            decoding: settings of the search; the last batch is filled up, so that one compilation serves all.
            explain: as for `__call__`.
            first: number of the first picture, which what is drawn for it hangs on, where captions are drawn by chance.

        Raises:
            ConfigError: when the prompt leaves no room.
        """
        start = [self.tokenizer.end_id]
        if decoding.prompt.strip():
            start = self.tokenizer.encode(decoding.prompt, sys.maxsize)[:-1]
        if len(start) >= decoding.max_length:
            raise ConfigError(
                f"decoding.prompt={decoding.prompt!r}: {len(start)} tokens leave nothing of decoding.max_length="
                f"{decoding.max_length}"
            )
        bad_words = tuple(tuple(self.tokenizer.encode(word, sys.maxsize)[1:-1]) for word in decoding.bad_words)
        # without what a compilation does not hang on
        settings = replace(decoding, prompt="", bad_words=(), batch_size=1, seed=0)
        key_of = jax.vmap(partial(jax.random.fold_in, jax.random.key(decoding.seed)))
        pending, done = iter(images), first
        while chunk := list(islice(pending, decoding.batch_size)):
            filled = chunk + [chunk[-1]] * (decoding.batch_size - len(chunk))
            images = np.stack(filled)
            found = _search(
                self.model,
                images,
                np.array(start, np.int32),
                key_of(done + np.arange(len(filled))),
                graphdef=self._graphdef,
                decoding=settings,
                end_id=self.tokenizer.end_id,
                bad_words=bad_words,
            )
            done += len(chunk)
            seen = (
                log_probs(self.model, images, found.tokens, found.lengths, graphdef=self._graphdef) if explain else None
            )
            found, seen = jax.device_get((found, seen))
            for row in range(len(chunk)):
                captions = [
                    self._caption(found, (row, rank), len(start), seen) for rank in range(found.scores.shape[1])
                ]
                yield replace(captions[0], others=tuple(captions[1:]))

    def _caption(self, found: BeamSearchResult, at: tuple[int, int], prompt: int, seen) -> Caption:
        length, decode = found.lengths[at], self.tokenizer.decode
        ids = found.tokens[at][:length].tolist()
        own = found.token_log_probs[at][prompt:length].tolist()
        words = () if seen is None else join_words(self.tokenizer, ids, [log_probs[at] for log_probs in seen])
        return Caption(
            decode(ids),
            float(found.scores[at]),
            sum(own),
            tuple(self.tokenizer.pieces(ids[prompt:])),
            tuple(own),
            words,
        )
