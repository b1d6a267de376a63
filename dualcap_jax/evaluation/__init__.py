"""Scores of captions, and the report on them."""
