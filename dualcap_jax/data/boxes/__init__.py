"""Images with boxes: what a detector is trained on and scored by."""
