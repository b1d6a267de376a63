"""A captioner as the Hugging Face hub has models: whole, and its two halves for transformers and timm."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from dualcap_jax.captioner import Captioner
from dualcap_jax.card import model_card
from dualcap_jax.files import replacing, write_text
from dualcap_jax.models.encoders import NORMALIZATIONS, EfficientNetConfig
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.pretrained import efficientnet, gpt2
from dualcap_jax.pretrained.tables import export


def export_huggingface(captioner: Captioner, directory: Path, scores: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Write what `Captioner.from_pretrained` reads, with the language model and the encoder in folders of their own.

    Args:
        captioner: to export.
        directory: made where it is not there; files of these names are replaced.
        scores: for the model card, by the name of an evaluation.

    Yields:
        What was written, or why not, as it is done.
    """
    captioner.save_pretrained(directory)
    write_text(directory / "README.md", model_card(captioner.config, captioner.step, scores))
    yield f"{directory}: the whole, for Captioner.from_pretrained; its model card has {len(scores)} evaluations"
    model, params = captioner.config.model, captioner.model["params"]
    folder = directory / "language"
    if not isinstance(model.language, GPT2Config):
        yield f"{folder}: left out, as transformers has no {model.language.kind}"
    elif model.language.embedding_scale != 1:
        scale = model.language.embedding_scale
        yield f"{folder}: left out, as transformers' GPT-2 has no embedding_scale, which is {scale:g} here"
    else:
        gpt2.save(model.language, params["language"], captioner.tokenizer, folder)
        yield f"{folder}: for transformers' GPT2LMHeadModel, and for model.language.pretrained"
    folder = directory / "encoder"
    if not isinstance(model.encoder, EfficientNetConfig):
        yield f"{folder}: left out, as timm has no {model.encoder.kind}"
    else:
        tree = {kind: captioner.model[kind]["encoder"] for kind in ("params", "batch_stats")}
        table = efficientnet.table(model.encoder, "timm", classifier=bool(model.encoder.num_classes))
        with replacing(folder / "model.safetensors") as file:
            file.write_bytes(save(export(table, tree), metadata={"format": "pt"}))
        name = f"tf_efficientnet_{model.encoder.variant}"
        mean, deviation = (
            np.divide(each, 255).tolist() for each in NORMALIZATIONS[model.encoder.normalization or "advprop"]
        )
        transform = captioner.config.data.transform
        seen = {
            "input_size": [3, transform.size, transform.size],
            "interpolation": transform.interpolation,
            "crop_pct": transform.size / transform.resize,
            "mean": mean,
            "std": deviation,
        }
        about = {"architecture": name, "num_classes": model.encoder.num_classes, "pretrained_cfg": seen}
        write_text(folder / "config.json", json.dumps(about, indent=2) + "\n")
        yield f"{folder}: for timm's {name}, and for model.encoder.pretrained"
