"""Bulk runs: prediction on millions of pictures, part by part, so that an interrupted run loses nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppsolo.bulk.ray import BatchPredictor

__all__ = ["BatchPredictor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ppsolo.bulk' has no attribute '{name}'")
    return getattr(importlib.import_module("ppsolo.bulk.ray"), name)
