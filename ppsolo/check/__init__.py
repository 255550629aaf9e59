"""The data-set doctor: faults that would harm training, and settings that fit the data."""
