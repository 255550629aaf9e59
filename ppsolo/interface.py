"""Names and numbers that the Paddle half and the Paddle-free half share."""

LEVELS = 5  # of the feature pyramid, P2 to P6
# Outputs of an exported graph, in order: with postprocessing, and of the network alone.
OUTPUTS = ("scores", "labels", "masks", "counts")
RAW_OUTPUTS = (
    *(f"{kind}{level}" for kind in ("category_logits", "kernels") for level in range(LEVELS)),
    "mask_features",
)
# Two scores that differ by no more than this are equal. No two float32 above 1.5e-8 differ by exactly this number, so
# that the published "less than" gives the same; in float16 it becomes 0, for which "no more than" still holds.
EQUAL_SCORES = 1e-8
# Runtimes of a model, and the precisions they compute in.
ENGINES = ("auto", "dygraph", "onnxruntime", "openvino", "paddle")
PRECISIONS = ("fp32", "fp16", "bf16")
