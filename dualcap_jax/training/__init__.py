"""The training step, its state, the loop around it, checkpoints and logs."""
