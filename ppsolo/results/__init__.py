"""Results: what was found in a picture, without Paddle."""
