"""The service: answers over HTTP."""
