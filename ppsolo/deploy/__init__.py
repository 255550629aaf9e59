"""What ships a model: the service that answers over HTTP."""
