"""Training: the loop, the optimizer, states and logs."""
