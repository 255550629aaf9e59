"""Instances found in a picture: postprocessing, masks, drawings and files. Needs no Paddle."""
