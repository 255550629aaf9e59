"""Names and numbers that the Paddle half and the Paddle-free half share."""

LEVELS = 5  # of the feature pyramid, P2 to P6
# Outputs of an exported graph, in order: with postprocessing, and of the network alone.
OUTPUTS = ("scores", "labels", "masks", "counts")
RAW_OUTPUTS = (
    *(f"{kind}{level}" for kind in ("category_logits", "kernels") for level in range(LEVELS)),
    "mask_features",
)
# The published systems call two scores equal when they differ by less than this.
EQUAL_SCORES = 1e-8
# Runtimes of a model, and the precisions they compute in.
ENGINES = ("auto", "dygraph", "onnxruntime", "openvino", "paddle")
PRECISIONS = ("fp32", "fp16", "bf16")
