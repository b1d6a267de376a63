"""Scores of captions, and the report that shows them."""
