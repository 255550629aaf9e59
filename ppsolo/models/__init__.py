"""The networks: backbones, FPN, SOLOv2 heads, losses, and the postprocessing in Paddle."""
