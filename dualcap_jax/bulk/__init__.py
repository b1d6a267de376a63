"""Captions of as many images as there are, into files: what was begun goes on, and nothing is done twice."""
