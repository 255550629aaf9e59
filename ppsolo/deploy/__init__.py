"""Exported models: static graphs that answer without ppsolo's model code, and the service that answers over HTTP."""

from ppsolo.deploy.runtime import ExportedPredictor, load

__all__ = ["ExportedPredictor", "load"]
