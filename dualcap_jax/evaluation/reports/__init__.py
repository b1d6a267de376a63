"""What an evaluation leaves behind, to be read by people and by programs."""
