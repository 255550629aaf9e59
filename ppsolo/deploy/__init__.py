"""Exported models: static graphs that predict without ppsolo's model code."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppsolo.deploy.runtime import ExportedPredictor, load

__all__ = ["ExportedPredictor", "load"]


def __getattr__(name: str) -> Any:
    """Import these names only when they are used, because they load Paddle or a runtime."""
    if name not in __all__:
        raise AttributeError(f"module 'ppsolo.deploy' has no attribute '{name}'")
    return getattr(importlib.import_module("ppsolo.deploy.runtime"), name)
