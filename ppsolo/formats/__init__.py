"""Annotations of other tools, read as one kind of data set."""
