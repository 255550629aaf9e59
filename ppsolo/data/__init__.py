"""Images, annotations and training samples: everything between the disk and the model."""
