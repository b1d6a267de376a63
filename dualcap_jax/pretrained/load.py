"""Published weights for the parts of the network, whatever their kind, and what belongs to the weights."""

from types import ModuleType

from dualcap_jax.models import variables
from dualcap_jax.models.encoders import EncoderConfig
from dualcap_jax.models.language_models import LanguageModelConfig
from dualcap_jax.models.variables import NetworkConfig, Variables
from dualcap_jax.pretrained import efficientdet, efficientnet, gpt2
from dualcap_jax.pretrained.files import locate, read_tensors
from dualcap_jax.pretrained.preprocessing import Preprocessing
from dualcap_jax.pretrained.tables import PretrainedError

BACKBONES: dict[str, ModuleType] = {"efficientnet": efficientnet, "efficientdet": efficientdet, "gpt2": gpt2}
"""What knows the published weights of a kind: `load`, and `preprocessing` (encoders) or `as_published` (language
models)."""


def _backbone(config: EncoderConfig | LanguageModelConfig) -> ModuleType:
    if config.kind not in BACKBONES:
        raise PretrainedError(
            f"{config.pretrained}: no published weights of {config.kind} are known here, only of "
            f"{', '.join(BACKBONES)}; set pretrained to None"
        )
    return BACKBONES[config.kind]


def preprocessing(config: EncoderConfig) -> Preprocessing:
    """What belongs to the encoder's pretrained weights: as their config.json says, else as their authors did it.

    Raises:
        PretrainedError: when they cannot be had, or want colours scaled in a way not known here.
    """
    belongs: Preprocessing = _backbone(config).preprocessing(config)
    return belongs


def language_as_published(config: LanguageModelConfig) -> LanguageModelConfig:
    """The configuration with the shape of its pretrained weights.

    Raises:
        PretrainedError: when they cannot be had or are of another kind.
    """
    published: LanguageModelConfig = _backbone(config).as_published(config)
    return published


def load_pretrained(config: NetworkConfig, seed: int) -> tuple[Variables, list[str]]:
    """The network's variables and what was done: the published weights that its config names, random ones for the rest.

    Raises:
        PretrainedError: when weights cannot be had, read or fitted.
    """
    model, notes = variables.shapes(config), []
    for part in ("encoder", "language"):
        settings = getattr(config, part, None)  # a detector is an encoder alone
        if settings is not None and settings.pretrained is not None:
            tree = {kind: model[kind][part] for kind in model if part in model[kind]}
            tensors = read_tensors(locate(settings.pretrained, settings.revision))
            loaded, told = _backbone(settings).load(settings, tree, tensors, settings.pretrained)
            model = model | {kind: model[kind] | {part: arrays} for kind, arrays in loaded.items()}
            notes.append(told)
    return variables.init(config, seed, model), notes
