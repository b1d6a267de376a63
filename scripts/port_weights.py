"""Port published weights into one safetensors file in our names, with its config; print what became of each tensor.

    python scripts/port_weights.py SOURCE OUT [--variant b4]

SOURCE is what `model.encoder.pretrained` and `model.language.pretrained` take, or the original project's state dict.
OUT is a directory that the same settings take then, on machines without PyTorch and TensorFlow; of the original's state
dict it is a whole captioner, for `Captioner.from_pretrained` and the commands.
"""

from dualcap_jax import Captioner, cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jax
from safetensors.numpy import save_file

from dualcap_jax.config import load_experiment
from dualcap_jax.data.text import load_tokenizer
from dualcap_jax.files import replacing, write_text
from dualcap_jax.models import variables
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import NORMALIZATIONS
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig, Variant
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.pretrained import efficientnet, gpt2
from dualcap_jax.pretrained.files import locate, read_config, read_tensors
from dualcap_jax.pretrained.original import load_original
from dualcap_jax.pretrained.tables import PretrainedError, TensorName, Tensors, export, own_table

CONFIGS = Path(__file__).parents[1] / "configs"


def print_table(table: list[TensorName], tensors: Tensors) -> None:
    """Theirs -> ours, shape."""
    for name, path, _ in table:
        print(f"{name} -> {'.'.join(path)} {list(tensors[name].shape)}")


def write(tree: dict, part: str, config: dict, out: Path) -> None:
    """The arrays of one part, and the config.json beside them."""
    with replacing(out / "model.safetensors") as file:
        save_file(export(own_table(tree, (part,)), tree), file)
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")


def port_encoder(source: str, tensors: Tensors, variant: str | None, out: Path) -> None:
    """Write an encoder with the preprocessing that belongs to it."""
    variant = variant or efficientnet.find_variant(source)
    if variant not in get_args(Variant):
        raise PretrainedError(f"{source}: give --variant, one of {', '.join(get_args(Variant))}")
    naming, prefix = efficientnet.find_naming(tensors, source)
    if naming == "tensorflow":
        tensors = efficientnet.averaged(tensors)
    classes = next(
        (len(array) for name, array in tensors.items() if name.endswith(("_fc.bias", "classifier.bias", "dense/bias"))),
        0,
    )
    config = EfficientNetConfig(variant=variant, num_classes=classes, pretrained=source)  # type: ignore[arg-type]
    shapes = variables.shapes(ModelConfig(encoder=config))
    tree = {kind: shapes[kind]["encoder"] for kind in ("params", "batch_stats")}
    loaded, told = efficientnet.load(config, tree, tensors, source)
    table = efficientnet.table(config, naming, classifier=bool(classes))
    print_table([entry._replace(name=prefix + entry.name) for entry in table], tensors)
    belongs = efficientnet.preprocessing(config)
    mean, deviation = ([value / 255 for value in values] for values in NORMALIZATIONS[belongs.normalization])
    preprocessing = {"mean": mean, "std": deviation, "interpolation": belongs.interpolation}
    write(loaded, "encoder", {"variant": variant, **preprocessing, "crop_pct": belongs.crop_fraction}, out)
    print(told)


def port_language(source: str, tensors: Tensors, out: Path) -> None:
    """Write a language model with Hugging Face's config and its tokenizer."""
    config = gpt2.as_published(GPT2Config(pretrained=source))
    tree = {"params": variables.shapes(ModelConfig(language=config))["params"]["language"]}
    loaded, told = gpt2.load(config, tree, tensors, source)
    print_table(list(gpt2.table(config, gpt2.find_prefix(tensors, source))), tensors)
    write(loaded, "language", read_config(locate(source)), out)
    for file in ("vocab.json", "merges.txt"):
        if (there := locate(source) / file).is_file():
            shutil.copy(there, out / file)
    print(told)


def port_original(source: str, tensors: Tensors, tokenizer: str, out: Path) -> None:
    """Write the original's captioner."""
    config = load_experiment(CONFIGS / "coco_b4_gpt2.py")
    plain = replace(
        config.model,
        encoder=replace(config.model.encoder, pretrained=None, normalization="advprop"),
        language=replace(config.model.language, pretrained=None),
    )
    model = load_original(plain, variables.shapes(plain), tensors, source)
    Captioner(replace(config, model=plain), model, load_tokenizer(tokenizer), 0).save_pretrained(out)
    print(f"{len(jax.tree.leaves(model))} tensors from {source}: a whole captioner")


def main(arguments: Sequence[str]) -> int:
    """Port what the source holds."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", help="of an EfficientNet whose name does not tell")
    parser.add_argument("--revision", help="of a model on the hub")
    parser.add_argument("--tokenizer", default="gpt2", help="of the original's captioner: hub name or directory")
    args = parser.parse_args(arguments)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise PretrainedError(f"{args.out}: exists; give a new directory or an empty one")
    path = locate(args.source, args.revision)
    source, tensors = args.source if args.revision is None else str(path), read_tensors(path)
    if "encoder1.weight" in tensors:
        port_original(source, tensors, args.tokenizer, args.out)
    elif any(name.endswith("wte.weight") for name in tensors):
        port_language(source, tensors, args.out)
    else:
        port_encoder(source, tensors, args.variant, args.out)
    size = (args.out / "model.safetensors").stat().st_size
    print(f"written: {args.out} ({size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    cli.run(main)
