"""Captioners in forms that need none of this package's code."""
