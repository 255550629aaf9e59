"""PaddleDetection 0.5 and 2.x: parameter names, configurations, and label lists."""
