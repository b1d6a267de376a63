"""Scores of captions, and the reports on them."""
