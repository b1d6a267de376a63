"""What a detector is trained by and scored with: pure functions of boxes, classes and scores."""
