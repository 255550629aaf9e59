"""Evaluation: average precision of results on COCO annotations."""
