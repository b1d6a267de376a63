"""The embedded set: scenes of coloured shapes, drawn and captioned from a seed."""
