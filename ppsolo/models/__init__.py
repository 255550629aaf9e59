"""The networks: backbones, FPN, SOLOv2 heads, and the postprocessing that turns their outputs into masks."""
