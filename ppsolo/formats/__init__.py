"""Readers of other tools' annotations; all give the same kind of data set."""
