"""Images, annotations and training samples."""
