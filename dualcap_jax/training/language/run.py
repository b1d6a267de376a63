"""From texts to a language model in a directory."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path

import jax
import jax.numpy as jnp

from dualcap_jax import cli
from dualcap_jax.data.config import plain_caption
from dualcap_jax.data.documents import Group, hold_out, read_texts
from dualcap_jax.data.pieces import evaluation_batches, make_pieces, training_batches, unigram_perplexity
from dualcap_jax.data.records import Faults
from dualcap_jax.data.text import CaptionTokenizer, load_tokenizer, train_tokenizer
from dualcap_jax.errors import ConfigError
from dualcap_jax.files import require_writable, write_text
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.variables import init_language
from dualcap_jax.pretrained import gpt2
from dualcap_jax.pretrained.files import locate, read_tensors
from dualcap_jax.training.language.config import NOTE, Arguments
from dualcap_jax.training.language.loop import Best, perplexity, train
from dualcap_jax.training.language.step import Params, init_state, make_eval_step, make_train_step


def run(arguments: Arguments) -> int:
    """Train, saving the best weights as they come; returns the exit code.

    Raises:
        UserError: what is wrong with the text, the tokenizer or the language model to begin with.
    """
    config, out = arguments.training, Path(arguments.out)
    published = None
    if arguments.init_from:
        published = gpt2.as_published(GPT2Config(pretrained=arguments.init_from))
        names = ("width", "layers", "heads", "activation", "max_positions")
        shape = {name: getattr(published, name) for name in names}
        config = replace(config, **shape)
    groups = read_all(arguments.text, Faults(arguments.on_error))
    if arguments.plain:
        groups = [tuple(map(plain_caption, group)) for group in groups]
    parts = [list(chain.from_iterable(part)) for part in hold_out(groups, config.held_out, config.seed)]
    tokenizer = make_tokenizer(arguments, published, parts[0])
    language = config.network(tokenizer.vocab_size)
    trained, held_out = (make_pieces(part, tokenizer, language.max_positions) for part in parts)
    require_writable(out / NOTE)

    training = config.training(-(-len(trained) // config.batch_size))
    params = initial_params(language, arguments)
    if cut := trained.cut + held_out.cut:
        print(f"{cut:,} documents are longer than {language.max_positions} tokens: cut into pieces, none left out")
    print(f"train on {len(parts[0]):,} documents ({trained.predicted:,} tokens), {len(parts[1]):,} held out")
    print(f"vocabulary: {tokenizer.vocab_size:,} tokens; a unigram model's perplexity on what is held out: ", end="")
    print(f"{unigram_perplexity(trained, held_out, tokenizer.vocab_size):.2f}")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"model: {count:,} parameters ({language.width} wide, {language.layers} layers, {language.heads} heads)")
    print(f"device: {jax.devices()[0].device_kind}, {config.dtype}; {training.steps:,} steps", flush=True)

    def save(params: Params, best: Best) -> None:
        gpt2.save(language, jax.device_get(params), tokenizer, out)
        source = {name: getattr(arguments, name) for name in ("text", "plain", "init_from")}
        found = {"steps": training.steps, "best_step": best.step, "perplexity": best.perplexity}
        note = source | asdict(config) | found
        write_text(out / NOTE, json.dumps(note, indent=2) + "\n")

    measure = partial(perplexity, make_eval_step(language, config.dtype))
    with cli.naming_memory(f"lower --batch-size (now {config.batch_size})"):
        best = train(
            init_state(params, training),
            make_train_step(language, config.dtype, training),
            lambda params: measure(params, evaluation_batches(held_out, config.batch_size)),
            training_batches(trained, config.batch_size, config.seed),
            save,
            training,
        )
    if not best.step:
        print("error: no perplexity on what is held out was finite: nothing was saved", file=sys.stderr)
        return 1
    print(f"held-out perplexity: {best.perplexity:.2f} per token (step {best.step}); written: {out}")
    print(f"use it: python -m dualcap_jax.train --model.language.pretrained {shlex.quote(str(out))}")
    return 0


def read_all(sources: Sequence[str], faults: Faults) -> list[Group]:
    """The documents of all sources; prints what each holds, and what was skipped."""
    groups: list[Group] = []
    for source in sources:
        texts = read_texts(source, faults)
        together = f" in {len(texts.groups):,} groups" if len(texts.groups) < texts.documents else ""
        left_out = f"; {texts.of_other_splits:,} of validation and test left out" if texts.of_other_splits else ""
        print(f"text: {source}: {texts.documents:,} documents{together}{left_out}")
        groups += texts.groups
    if faults.skipped:
        print(faults.summary())
    return groups


def make_tokenizer(arguments: Arguments, published: GPT2Config | None, documents: Sequence[str]) -> CaptionTokenizer:
    """The tokenizer that is named, or that of the language model to begin with, or one trained on the documents.

    Raises:
        ConfigError: it is of another vocabulary than the language model to begin with.
    """
    if not published:
        if arguments.tokenizer:
            return load_tokenizer(arguments.tokenizer)
        return train_tokenizer(documents, arguments.vocab_size)
    path = locate(arguments.init_from)
    tokenizer = load_tokenizer(arguments.tokenizer or (path if path.is_dir() else path.parent))
    if tokenizer.vocab_size != published.vocab_size:
        raise ConfigError(
            f"--tokenizer {arguments.tokenizer}: {tokenizer.vocab_size} tokens, but --init-from {arguments.init_from} "
            f"embeds {published.vocab_size}; they must be of one vocabulary"
        )
    return tokenizer


def initial_params(language: GPT2Config, arguments: Arguments) -> Params:
    """Weights to begin with: those of --init-from, or random ones."""
    params = init_language(language, arguments.training.seed)
    if not arguments.init_from:
        return params
    tensors = read_tensors(locate(arguments.init_from))
    loaded, told = gpt2.load(language, {"params": params}, tensors, arguments.init_from)
    print(told)
    return jax.tree.map(jnp.asarray, loaded["params"])
