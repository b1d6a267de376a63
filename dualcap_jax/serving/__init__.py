"""Captions over HTTP: a batcher, an API and a page."""
