"""Search over any model that gives next-token logits and a cache."""

from .beam_search import BeamSearchResult, NextLogits, Reorder, beam_search
from .config import DecodingConfig
from .sampling import sample

__all__ = ["BeamSearchResult", "DecodingConfig", "NextLogits", "Reorder", "beam_search", "sample"]
