"""The version of ppsolo."""

__version__ = "0.1.0"
