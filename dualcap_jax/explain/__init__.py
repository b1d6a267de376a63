"""What a caption owes to its image: how much of each word was seen, and where (Grad-CAM)."""
