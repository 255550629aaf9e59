"""Exported models: static graphs that answer without ppsolo's model code, and the service that answers over HTTP."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppsolo.deploy.runtime import ExportedPredictor, load

__all__ = ["ExportedPredictor", "load"]


def __getattr__(name: str) -> Any:
    """What needs Paddle is imported when it is first asked for: the service looks at its options before."""
    if name not in __all__:
        raise AttributeError(f"module 'ppsolo.deploy' has no attribute '{name}'")
    return getattr(importlib.import_module("ppsolo.deploy.runtime"), name)
