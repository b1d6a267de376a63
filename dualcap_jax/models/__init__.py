"""The networks: encoder, language model, mergers, and the captioner that joins them."""
