"""Sets written once, as records that are read fast."""
