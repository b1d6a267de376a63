"""Pictures with captions: sources of records, image and text preparation, the input pipeline."""
