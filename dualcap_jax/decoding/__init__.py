"""Search over any model that gives next-token logits and a cache."""

from dualcap_jax.decoding.beam_search import beam_search
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.decoding.model import DecodingModel
from dualcap_jax.decoding.result import Decoded
from dualcap_jax.decoding.rules import Rules
from dualcap_jax.decoding.sampling import sample

__all__ = ["Decoded", "DecodingConfig", "DecodingModel", "Rules", "beam_search", "sample"]
