"""Images and their captions: sources of records, tokens, and the batches that the model reads."""
