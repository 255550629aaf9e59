"""Training: the loop, its optimizer, states and logs."""
