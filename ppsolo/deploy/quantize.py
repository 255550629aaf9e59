"""Quantization: a network in int8 for OpenVINO, calibrated on pictures, with its loss of accuracy measured."""

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paddle.version import full_version as PADDLE_VERSION

from ppsolo.build.pipeline import build_numpy_postprocess
from ppsolo.config import Config
from ppsolo.cpu import default_threads
from ppsolo.deploy.directory import ExportInfo, checksums, new_directory, write_info
from ppsolo.deploy.export import CARD, OPEN_SHAPE, input_info, output_infos
from ppsolo.deploy.group_norms import flatten_group_norms
from ppsolo.deploy.onnx.graph import build_onnx
from ppsolo.deploy.openvino_runtime import OpenVinoSession, read_graph
from ppsolo.deploy.runtime import OPENVINO_FILE, ExportedPredictor, NetworkEngine
from ppsolo.errors import ExportError
from ppsolo.interface import RAW_OUTPUTS
from ppsolo.models.solov2 import SOLOv2
from ppsolo.pipeline import Pipeline
from ppsolo.text import needed_package
from ppsolo.version import __version__

TABLE_FILE = "quantization.json"
MAX_DROP = 0.005
COMPARED = 8  # prepared images to compare heads on
# Layers that always stay in float: the first convolution, whose input has three channels; group norms, whose means
# and sums are convolutions in the graph; the gates of squeeze-and-excitation, which cost nothing.
FIRST = (r"backbone\.stem(\.0)?\.conv.*", r".*\.norm\..*", r".*squeeze_excite.*")
# Operations that always stay in float: they make coordinates.
FIRST_TYPES = ("Divide", "Multiply", "Subtract")
# More layers to keep in float, step by step, if average precision falls too far.
LADDER = (
    ("the first layer and all norms", ()),
    (
        "and the last layers of the heads",
        (
            r"head\.category\.Conv.*",
            r"head\.kernel\.Conv.*",
            r"category_logits.*",
            r"kernels\d.*",
            r"mask_feature_head\.output.*",
        ),
    ),
    ("and the mask-feature head", (r"mask_feature_head\..*",)),
    ("and the towers of the SOLOv2 head", (r"head\..*",)),
)

# Called with a predictor; returns its mask AP, in [0, 1].
Measure = Callable[[Pipeline], float]


class Attempt(NamedTuple):
    """One way to quantize. kept: the layers in float, in words. mask_ap: None if it was not measured."""

    kept: str
    mask_ap: float | None


class Quantized(NamedTuple):
    """The result of a quantization.

    table: the content of quantization.json: "mask_ap_fp32" and "mask_ap_int8" (None if not measured), "drop",
    "max_drop", "kept_in_float", "attempts", "heads" (relative differences of each output), "calibration_images".
    """

    directory: Path
    info: ExportInfo
    table: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.directory}: {', '.join(self.info.files)}; {self.info.verified}"


def quantize_model(
    model: SOLOv2,
    config: Config,
    directory: str | os.PathLike[str],
    *,
    images: Sequence[np.ndarray],
    measure: Measure | None,
    max_drop: float = MAX_DROP,
    checkpoint: dict[str, str] | None = None,
    model_card: Path | None = None,
) -> Quantized:
    """Write the network of `model` in int8 into `directory`, for OpenVINO on a CPU.

    NNCF's post-training quantization makes weights and activations of convolutions int8. If mask AP falls by more
    than `max_drop`, more layers stay in float, step by step (LADDER).

    Args:
        model: built from `config`, with its weights.
        directory: appears whole or not at all. An export in this place is replaced; anything else is refused.
        images: prepared images for calibration, float32 [3, H, W], H and W multiples of 32.
        measure: returns the mask AP of a predictor on the user's data; None without annotations.
        max_drop: largest accepted loss of mask AP.
        checkpoint: "file" and "sha256" of the weights, to be recorded.
        model_card: a file to copy into the export.

    Raises ExportError if nncf or openvino is missing, or mask AP falls too far in every attempt.
    """
    if not images:
        raise ExportError("calibration needs pictures: give a folder or annotations with pictures")
    if not 0 <= max_drop <= 1:
        raise ExportError(f"--max_drop is {max_drop}: give a number from 0 to 1")
    model.eval()
    content = build_onnx(model).SerializeToString()
    threads = default_threads()
    info = _info(config, checkpoint or {})
    exact = OpenVinoSession(content, RAW_OUTPUTS, threads=threads)
    before = measure(_predictor(info, exact)) if measure is not None else None
    attempts: list[Attempt] = []
    with new_directory(Path(directory)) as place:
        for words, graph in _quantized_graphs(content, images):
            _save(graph, place / OPENVINO_FILE)
            session = OpenVinoSession(place / OPENVINO_FILE, RAW_OUTPUTS, threads=threads, quantized=True)
            after = measure(_predictor(info, session)) if measure is not None else None
            attempts.append(Attempt(words, after))
            if before is None or after is None or before - after <= max_drop:
                break
        else:
            raise _too_far(before, attempts, max_drop)
        heads = _compare_heads(exact, session, images[:COMPARED])
        table = _table(before, attempts, max_drop) | {"heads": heads, "calibration_images": len(images)}
        if model_card is not None:
            shutil.copyfile(model_card, place / CARD)
        (place / TABLE_FILE).write_text(json.dumps(table, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        info = _info(config, checkpoint or {}, verified=_in_words(table), files=checksums(place))
        write_info(place, info)
    return Quantized(Path(directory), info, table)


def _table(before: float | None, attempts: Sequence[Attempt], max_drop: float) -> dict[str, Any]:
    after = attempts[-1].mask_ap
    return {
        "mask_ap_fp32": before,
        "mask_ap_int8": after,
        "drop": None if before is None or after is None else before - after,
        "max_drop": max_drop,
        "kept_in_float": attempts[-1].kept,
        "attempts": [attempt._asdict() for attempt in attempts],
    }


def _too_far(before: float | None, attempts: Sequence[Attempt], max_drop: float) -> ExportError:
    best = max((attempt.mask_ap for attempt in attempts if attempt.mask_ap is not None), default=None)
    tried = "" if len(attempts) == 1 else f" in {len(attempts)} attempts"
    return ExportError(
        f"in int8 the mask AP falls from {_points(before)} to {_points(best)} at best{tried}, by more than "
        f"{_points(max_drop)}: nothing was written; calibrate on more pictures, raise --max_drop, or use bf16"
    )


def _quantized_graphs(content: bytes, images: Sequence[np.ndarray]) -> Iterator[tuple[str, Any]]:
    """Yield (layers in float, the graph in int8), each time with more layers in float."""
    try:
        import nncf
    except ImportError as error:
        raise ExportError(f"this needs {needed_package(error, 'nncf', 'int8')}") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level would change handlers of others too
    kept: list[str] = [*FIRST]
    words = ""
    for more, patterns in LADDER:
        kept += patterns
        words = f"{words} {more}".strip()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # nncf prints
            graph = nncf.quantize(
                flatten_group_norms(read_graph(content)),
                nncf.Dataset([image[None] for image in images]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(patterns=kept, types=[*FIRST_TYPES], validate=False),
            )
        yield words, graph


def _save(graph: Any, file: Path) -> None:
    import openvino

    openvino.save_model(graph, file, compress_to_fp16=False)


def _predictor(info: ExportInfo, session: OpenVinoSession) -> ExportedPredictor:
    postprocess = build_numpy_postprocess(info.config, threads=default_threads())
    return ExportedPredictor(info, NetworkEngine(session, postprocess))


def _compare_heads(
    exact: OpenVinoSession, other: OpenVinoSession, images: Sequence[np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return for each output the "largest" and the "mean" difference, as shares of its magnitude and its spread."""
    found: dict[str, dict[str, float]] = {}
    pairs = [(exact(image[None]), other(image[None])) for image in images]
    for index, name in enumerate(RAW_OUTPUTS):
        expected = np.concatenate([one[index].ravel() for one, _ in pairs]).astype(np.float64)
        got = np.concatenate([two[index].ravel() for _, two in pairs]).astype(np.float64)
        difference = np.abs(got - expected)
        found[name] = {
            "largest": float(difference.max() / max(np.abs(expected).max(), 1e-12)),
            "mean": float(difference.mean() / max(expected.std(), 1e-12)),
        }
    return found


def _in_words(table: dict[str, Any]) -> str:
    heads = max(head["mean"] for head in table["heads"].values())
    text = f"int8, {table['kept_in_float']} in float; heads differ by up to {heads:.1%} of their spread; "
    if table["drop"] is None:
        return text + "mask AP was not measured: no annotations were given"
    return (
        text + f"mask AP {_points(table['mask_ap_fp32'])} in fp32, {_points(table['mask_ap_int8'])} in int8 "
        f"(it may fall by {_points(table['max_drop'])})"
    )


def _points(share: float | None) -> str:
    """Return an AP of 0 to 1 as people read it, from 0 to 100; two decimals, since it is compared with small drops."""
    return "unknown" if share is None else f"{100 * share:.2f}"


def _info(
    config: Config, checkpoint: dict[str, str], *, verified: str | None = None, files: dict[str, str] | None = None
) -> ExportInfo:
    return ExportInfo(
        format="openvino",
        graph="network",
        config=config,
        input_shape=OPEN_SHAPE,
        inputs=(input_info(OPEN_SHAPE),),
        outputs=output_infos(config, "network"),
        checkpoint=checkpoint,
        ppsolo=__version__,
        paddle=PADDLE_VERSION,
        verified=verified,
        files=files or {},
    )
