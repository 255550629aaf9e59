"""What `scripts/fuzz.py` tries: every reader of files and requests, with good inputs to begin from."""

from fuzzing import annotations, importers, lists, pictures, requests, texts, weights
from fuzzing.target import Target

TARGETS: dict[str, Target] = {
    **weights.TARGETS,
    **texts.TARGETS,
    **pictures.TARGETS,
    **annotations.TARGETS,
    **importers.TARGETS,
    **lists.TARGETS,
    **requests.TARGETS,
}
