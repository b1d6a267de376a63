"""What a device, there or not, would need for training and decoding."""
