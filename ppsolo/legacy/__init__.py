"""The past, quarantined: the parameter names of PaddleDetection 0.5 and 2.x."""
