"""Training a language model alone, on text."""
