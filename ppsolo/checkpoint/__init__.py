"""Weights files: finding, fetching, reading and writing them, and loading them into a model."""
