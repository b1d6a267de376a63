"""Scores of captions against their references; `score` names them all."""
