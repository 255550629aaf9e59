"""The data-set doctor: what would go wrong in training, and which settings would suit the data."""
