"""Weights files: where they come from, how they are read, and how they fill a model."""
