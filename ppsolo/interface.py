"""Names and numbers shared by the modules with Paddle and the modules without."""

EXPORT_FILE = "infer_cfg.yml"  # the description in an export's directory
LEVELS = 5  # of the feature pyramid, P2 to P6
# Outputs of an exported graph, in order: with postprocessing, and of the network alone.
OUTPUTS = ("scores", "labels", "masks", "counts")
RAW_OUTPUTS = (
    *(f"{kind}{level}" for kind in ("category_logits", "kernels") for level in range(LEVELS)),
    "mask_features",
)
# Scores that differ by at most this are equal. No two float32 above 1.5e-8 differ by exactly this number, so the
# published "less than" gives the same. In float16 it becomes 0, and "at most" still holds for equal scores.
EQUAL_SCORES = 1e-8
# Runtimes of a model, and their precisions.
ENGINES = ("auto", "dygraph", "onnxruntime", "openvino", "paddle")
PRECISIONS = ("fp32", "fp16", "bf16")
