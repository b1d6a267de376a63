"""What a user imports: images in, captions with scores out."""

import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float32, Int, UInt8
from safetensors.numpy import save

from dualcap_jax import captioning, inference
from dualcap_jax.card import model_card
from dualcap_jax.config import ExperimentConfig, load_json, load_run, save_json
from dualcap_jax.data.inputs import ImageInput, is_alone, open_image
from dualcap_jax.data.text import CaptionTokenizer, load_tokenizer
from dualcap_jax.decoding import Decoded, DecodingConfig, Rules
from dualcap_jax.errors import UserError, require
from dualcap_jax.explain.maps import attention_map, word_map
from dualcap_jax.explain.words import Word, find_word, join_words, log_probs, word_spans
from dualcap_jax.fields import check_names
from dualcap_jax.files import replacing, write_text
from dualcap_jax.models import variables
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables
from dualcap_jax.pretrained.files import locate, read_tensors
from dualcap_jax.pretrained.tables import PretrainedError, export, own_table, port
from dualcap_jax.training.config import Which
from dualcap_jax.training.objectives.cross_entropy import losses_of
from dualcap_jax.training.restoring import restore_model
from dualcap_jax.training.trained_on import load_own_tokenizer


@dataclass(frozen=True)
class Caption:
    """One caption of one image."""

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


def _text(caption: Any) -> str:
    if not isinstance(caption, Caption | str):
        raise UserError(f"{reprlib.repr(caption)} is no caption: give its text, or what the captioner returned")
    return caption if isinstance(caption, str) else caption.text


class Captioner:
    """A trained network with its tokenizer.

    Args:
        config: of the experiment it was trained in.
        model: params and batch_stats, nested dicts of arrays.
        tokenizer: the run's.
        step: training step that the model is of.
    """

    def __init__(self, config: ExperimentConfig, model: Variables, tokenizer: CaptionTokenizer, step: int):
        self.config, self.tokenizer, self.step = config, tokenizer, step
        devices = np.array(jax.local_devices())
        self._mesh = Mesh(devices, ("images",)) if devices.size > 1 else None
        self.model = jax.device_put(model, NamedSharding(self._mesh, PartitionSpec())) if self._mesh else model

    @classmethod
    def load(cls, workdir: str | os.PathLike, checkpoint: Which = "best") -> "Captioner":
        """The captioner of a run directory.

        Args:
            workdir: what `python -m dualcap_jax.train` wrote, or `save_pretrained`.
            checkpoint: "best" by validation, or "latest".

        Raises:
            ConfigError: when `workdir` is no run directory, or `checkpoint` is neither.
            CheckpointError: when it has no checkpoint yet.
        """
        require(checkpoint in get_args(Which), "checkpoint", checkpoint, "must be 'best' or 'latest'")
        workdir = Path(workdir)
        if (workdir / "model.safetensors").is_file():
            return cls.from_pretrained(workdir)
        config = load_run(workdir)
        model, step = restore_model(workdir, variables.shapes(config.model), checkpoint)
        return cls(config, model, load_own_tokenizer(workdir, config.model.language.vocab_size), step)

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
        tensors, shapes = dict(read_tensors(directory / "model.safetensors")), variables.shapes(config.model)
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
            file.write_bytes(save(tensors))
        self.tokenizer.save(directory)
        save_json(self.config, directory / "config.json")
        write_text(directory / "README.md", model_card(self.config, self.step))

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Publish what `save_pretrained` writes on the Hugging Face hub, for `from_pretrained`.

        Args:
            name: of the model there, such as "user/captioner"; made where it is not there.
            private: whether one that is made is private.
            token: that may write there. None: the one that `hf auth login` keeps.

        Returns:
            The address of what was published.

        Raises:
            PretrainedError: the hub does not take it.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        hub = HfApi(token=token)
        with TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            try:
                hub.create_repo(name, private=private, exist_ok=True)
                return str(hub.upload_folder(repo_id=name, folder_path=directory, commit_message=f"Step {self.step}"))
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                raise PretrainedError(f"{name}: can't be published: {str(error).splitlines()[0]}") from error

    @overload
    def __call__(self, images: ImageInput, *, explain: bool = False, **decoding: Any) -> Caption: ...

    @overload
    def __call__(
        self, images: Iterator[ImageInput], *, explain: bool = False, **decoding: Any
    ) -> Iterator[Caption]: ...

    @overload
    def __call__(self, images: Iterable[ImageInput], *, explain: bool = False, **decoding: Any) -> list[Caption]: ...

    def __call__(
        self, images: Any, *, explain: bool = False, **decoding: Any
    ) -> Caption | Iterator[Caption] | list[Caption]:
        """Caption images. Several threads may do so at the same time.

        Args:
            images: of any size.
            explain: give each caption's `words`, with what the image added to each.
            decoding: fields of `DecodingConfig` to change, such as num_beams=1 or num_return_sequences=3.

        Returns:
            The caption of one image; a list, of several; of an iterator another one, which takes a batch at a time.

        Raises:
            ConfigError: for a setting of the search that there is not, or an impossible one.
            ImageError: for the first image that cannot be read.
        """
        check_names(DecodingConfig, decoding)
        settings = replace(self.config.decoding, **decoding)
        if is_alone(images):
            return next(self.caption_prepared([self.prepare(images)], settings, explain))
        captions = self.caption_prepared(map(self.prepare, images), settings, explain)
        return captions if isinstance(images, Iterator) else list(captions)

    def prepare(self, image: ImageInput) -> UInt8[np.ndarray, "size size 3"]:
        """What the network sees of an image: its middle, resized.

        Raises:
            ImageError: when it cannot be read.
        """
        transform = self.config.data.transform
        return transform(open_image(image, transform))

    def explain(self, image: ImageInput, caption: Caption | str) -> tuple[Word, ...]:
        """How much of each word of any caption, the network's own or another, this image gives.

        Raises:
            ImageError: when the image cannot be read.
            ValueError: for more tokens than the language model has positions.
        """
        text = _text(caption)
        return self.explain_encoded(self.encode(self.prepare(image)[None]), text)

    def explain_encoded(self, features: Image, caption: Caption | str) -> tuple[Word, ...]:
        """The same of an encoded image.

        Raises:
            ValueError: for more tokens than the language model has positions.
        """
        ids, tokens = self._teacher_forced(_text(caption))
        of_tokens = log_probs(self.config.model, self.model, features, tokens, np.full((1, 1), len(ids)))
        return join_words(self.tokenizer, ids, [np.asarray(each[0, 0]) for each in of_tokens])

    def grad_cam(
        self, image: ImageInput, caption: Caption | str, word: str | int, *, stride: int | None = None
    ) -> Float32[np.ndarray, "size size"]:
        """Which places of an image speak for a word: Grad-CAM (Selvaraju et al. 2017).

        The gradient of the word's log-probability after the words before it, with respect to the encoder's feature
        maps, averaged over their places, weighs the maps; what is positive of their sum remains.

        Args:
            image: as for `__call__`.
            caption: the network's own, or any other.
            word: one of its words, whatever its case and the punctuation around it, or its place, from 0; of several
                alike the first.
            stride: of the maps, in pixels, after the encoder's last layer of that stride: for EfficientNet 2, 4, 8, 16
                or 32. None: that of the deepest maps of at least 7 x 7 places.

        Returns:
            0 to 1 for each pixel of `prepare(image)`, up from the maps' size by bilinear interpolation; all 0 where
            no place speaks for the word.

        Raises:
            ImageError: when the image cannot be read.
            WordError: when the caption has no such word.
            ValueError: for another stride, or more tokens than the language model has positions.
        """
        seen, tokens, of_word = self._at_word(image, caption, word)
        return np.asarray(word_map(self.config.model, self.model, seen, tokens, of_word, stride))

    def attention_map(
        self, image: ImageInput, caption: Caption | str, word: str | int
    ) -> Float32[np.ndarray, "size size"]:
        """Which places of an image the merger heeded as it chose a word: the mean of its heads and rounds.

        Args and Returns: as for `grad_cam`.

        Raises:
            UserError: when the merger heeds no places.
            ImageError, WordError, ValueError: as for `grad_cam`.
        """
        merger = self.config.model.merger
        if not merger.reads:
            raise UserError(
                f"model.merger.kind={merger.kind} reads no feature maps, so there is no attention to map; Grad-CAM "
                "serves every merger"
            )
        seen, tokens, of_word = self._at_word(image, caption, word)
        return np.asarray(attention_map(self.config.model, self.model, seen, tokens, of_word))

    def _at_word(
        self, image: ImageInput, caption: Caption | str, word: str | int
    ) -> tuple[UInt8[np.ndarray, "size size 3"], Int[np.ndarray, "1 1 length"], Bool[np.ndarray, " length-1"]]:
        """The prepared image, the caption's tokens, and which of those after the first are the word's."""
        text = self.config.data.styled(_text(caption))
        place = find_word(text, word)[0]
        ids, tokens = self._teacher_forced(text)
        of_word = np.zeros(tokens.shape[-1] - 1, bool)
        of_word[word_spans(self.tokenizer.pieces(ids[1:]))[place]] = True
        return self.prepare(image), tokens, of_word

    def _teacher_forced(self, caption: str) -> tuple[list[int], np.ndarray]:
        """Its tokens but the closing one; all of them [1, 1, length], filled up so that one compilation serves most."""
        ids = self.tokenizer.encode(self.config.data.styled(caption), sys.maxsize)
        usual = max(self.config.data.max_length, self.config.decoding.max_length)
        return ids[:-1], np.array([[ids + [self.tokenizer.pad_id] * (usual - len(ids))]], np.int32)

    def encode(self, images: UInt8[np.ndarray, "batch size size 3"]) -> Image:
        """What `search`, `losses` and `explain_encoded` take of images already of the network's size."""
        return inference.encode(self.config.model, self.model, images, self._mesh)

    def losses(
        self,
        features: Image,
        tokens: Int[np.ndarray, "batch captions length"],
        mask: Bool[np.ndarray, "batch captions length"],
    ) -> dict[str, float]:
        """Sums of the losses on given captions of encoded images, as `token_sums`."""
        sums = losses_of(self.config.model, self.model, features, tokens, mask)
        return {name: float(value) for name, value in sums.items()}

    def caption_prepared(
        self, images: Iterable[np.ndarray], decoding: DecodingConfig, explain: bool = False
    ) -> Iterator[Caption]:
        """Captions of images already of the network's size, as they come, batch by batch.

        Args:
            images: uint8 [size, size, 3], as `prepare` makes them.
            decoding: settings of the search. Batches are filled up, so that one compilation serves all; one image alone
                is a batch of one, which another serves.
            explain: as for `__call__`.

        Raises:
            ConfigError: when the prompt leaves no room.
        """
        pending, first = iter(images), 0
        while chunk := list(islice(pending, decoding.batch_size)):
            size = 1 if first == 0 and len(chunk) == 1 else decoding.batch_size
            filled = chunk + [chunk[-1]] * (size - len(chunk))
            yield from self.caption_batch(np.stack(filled), decoding, explain, first)[: len(chunk)]
            first += len(chunk)

    def caption_batch(
        self, images: UInt8[np.ndarray, "batch size size 3"], decoding: DecodingConfig, explain: bool, first: int = 0
    ) -> list[Caption]:
        """Captions of one batch, for which one compilation serves; arguments as of `caption_prepared`, `searcher`."""
        if self._mesh is not None:
            return self.searcher(decoding, explain)(self.encode(images), first)
        start, rules = self.rules(decoding)
        found, seen = captioning.caption(
            self.config.model, self.model, images, start, rules, explain=explain, seed=decoding.seed, first=first
        )
        return self.captions(len(start), found, seen)

    def searcher(self, decoding: DecodingConfig, explain: bool = False) -> Callable[[Image, int], list[Caption]]:
        """A function that captions encoded images.

        Args:
            decoding: settings of the search.
            explain: as for `__call__`.

        Returns:
            `(features, first) -> captions`; `first` is the number of the first image among all, which what is drawn
            for it by chance hangs on.

        Raises:
            ConfigError: when the prompt leaves no room.
        """
        start, rules = self.rules(decoding)

        def keys_of(numbers: np.ndarray) -> jax.Array:
            if not decoding.do_sample:  # none is read; making some would be a third of a second of every start
                return jax.random.wrap_key_data(jnp.zeros((len(numbers), 2), jnp.uint32), impl="threefry2x32")
            return jax.vmap(partial(jax.random.fold_in, jax.random.key(decoding.seed)))(numbers)

        def search(features: Image, first: int) -> list[Caption]:
            keys, prompt = keys_of(first + np.arange(len(jax.tree.leaves(features)[0]))), np.array(start, np.int32)
            found = inference.search(self.config.model, self.model, features, prompt, keys, rules, self._mesh)
            seen = None
            if explain:
                seen = log_probs(self.config.model, self.model, features, found.tokens, found.lengths)
            return self.captions(len(start), *jax.device_get((found, seen)))

        return search

    def captions(self, prompt: int, found: Decoded, seen: tuple[np.ndarray, ...] | None) -> list[Caption]:
        """What a search found, in words.

        Args:
            prompt: tokens that every caption begins with.
            found: the search's; arrays of numpy.
            seen: what `log_probs` gave for it, where words are to be explained.
        """
        captions = []
        for row in range(len(found.scores)):
            best, *others = (self._caption(found, (row, rank), prompt, seen) for rank in range(found.scores.shape[1]))
            captions.append(replace(best, others=tuple(others)))
        return captions

    def rules(self, decoding: DecodingConfig) -> tuple[list[int], Rules]:
        """The tokens that every caption begins with, and what may follow.

        Raises:
            ConfigError: when the prompt leaves no room.
        """
        tokenizer, styled = self.tokenizer, self.config.data.styled
        start = [tokenizer.start_id]
        if decoding.prompt.strip():
            start = tokenizer.encode(styled(decoding.prompt), sys.maxsize)[:-1]
        if len(start) >= decoding.max_length:
            raise ConfigError(
                f"decoding.prompt={decoding.prompt!r}: {len(start)} tokens leave nothing of decoding.max_length="
                f"{decoding.max_length}"
            )
        bad_words = tuple(tuple(tokenizer.encode(styled(word), sys.maxsize)[1:-1]) for word in decoding.bad_words)
        # without what a compilation does not hang on
        settings = replace(decoding, prompt="", bad_words=(), batch_size=1, seed=0)
        return start, Rules(settings, tokenizer.end_id, tokenizer.pad_id, bad_words)

    def _caption(
        self, found: Decoded, at: tuple[int, int], prompt: int, seen: tuple[np.ndarray, ...] | None
    ) -> Caption:
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
