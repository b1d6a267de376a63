"""Decoding for any model that gives next-token logits and a cache."""
