"""Writes `SOLOv2Postprocess` as ONNX nodes: raw predictions of a batch in, instances out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppsolo.deploy.onnx.layers import range_of, size_of, split
from ppsolo.deploy.onnx.network import RawNames
from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.interface import EQUAL_SCORES
from ppsolo.models.postprocess import SOLOv2Postprocess

# Rows of mask features per strip; every padded image has a multiple of these.
STRIP_ROWS = 8


class Candidates(NamedTuple):
    """Tensors of each image's K best cells: scores [N, K, C], kernels [N, K, E], strides [N, K]."""

    scores: str
    kernels: str
    strides: str


class MaskStatistics(NamedTuple):
    """Tensors of K masks: areas [N, K], sums of the probabilities inside [N, K], masks [N, K, h w].

    Masks are uint8, 0 or 1, in a graph for CPUs, and bool in a graph for GPUs.
    """

    areas: str
    sums: str
    masks: str


def postprocess(writer: OnnxWriter, raw: RawNames, settings: SOLOv2Postprocess, num_grids: tuple[int, ...]) -> None:
    """Write the outputs `scores`, `labels`, `masks` and `counts`, in the steps of `SOLOv2Postprocess`.

    Every count is -1 if the raw predictions are not finite.
    """
    at = "postprocess"
    found = candidates(writer, raw, settings, num_grids, f"{at}.candidates")
    shape = writer.op("Shape", [raw.mask_features], at=at)
    height, width = split(writer, size_of(writer, raw.mask_features, at), at)
    statistics = mask_statistics(writer, found.kernels, raw.mask_features, settings.mask_threshold, f"{at}.masks")

    # The best pairs of cell and class, by class score times maskness: [N, P].
    maskness = mask_scores(writer, statistics, found.strides, f"{at}.maskness")
    pairs = writer.op("Mul", [found.scores, writer.op("Unsqueeze", [maskness, writer.constant([2])], at=at)], at=at)
    classes = writer.op("Shape", [pairs], {"start": 2, "end": 3}, at=at)
    pairs = writer.op("Reshape", [pairs, writer.constant([0, -1])], at=at)
    positive = writer.op("Greater", [pairs, writer.constant(0.0)], at=at)
    scores, best_pairs = best(writer, pairs, positive, settings.pre_nms_top_n, f"{at}.pairs")
    slots = writer.op("Div", [best_pairs, classes], at=at)
    labels = writer.op("Mod", [best_pairs, classes], at=at)

    masks = rows(writer, statistics.masks, slots, at)
    overlaps = intersections(writer, masks, f"{at}.overlaps")
    decayed = matrix_nms(
        writer, scores, labels, overlaps, f"{at}.matrix_nms", kernel=settings.nms_kernel, sigma=settings.nms_sigma
    )

    # Survivors: [N, Q]; without empty slots: [M].
    survives = writer.op(
        "And",
        [
            writer.op("Greater", [scores, writer.constant(0.0)], at=at),
            writer.op("GreaterOrEqual", [decayed, writer.constant(settings.update_threshold)], at=at),
        ],
        at=at,
    )
    scores, survivors = best(writer, decayed, survives, settings.max_instances, f"{at}.survivors")
    taken = writer.op("GreaterOrEqual", [scores, writer.constant(0.0)], at=at)
    counted = writer.op("Cast", [taken], {"to": writer.types.INT64}, at=at)
    counts = writer.op("ReduceSum", [counted, writer.constant([1])], {"keepdims": 0}, at=at)
    finite = all_finite(writer, [*raw.category_logits, *raw.kernels, raw.mask_features], f"{at}.finite")
    writer.op("Where", [finite, counts, writer.constant(-1)], at=at, to="counts")
    flat = writer.constant([-1])
    kept = writer.op(
        "Reshape", [writer.op("NonZero", [writer.op("Reshape", [taken, flat], at=at)], at=at), flat], at=at
    )
    for name, values in (("scores", scores), ("labels", elements(writer, labels, survivors, at))):
        writer.op("Gather", [writer.op("Reshape", [values, flat], at=at), kept], {"axis": 0}, at=at, to=name)

    # Compute the kept masks again: [M, h, w].
    kernels = rows(writer, found.kernels, elements(writer, slots, survivors, at), at)
    features = writer.op("Reshape", [raw.mask_features, writer.constant([0, 0, -1])], at=at)
    logits = writer.op("MatMul", [kernels, features], at=at)
    pixels = writer.op("Mul", [height, width], at=at)
    logits = writer.op("Reshape", [logits, writer.op("Concat", [flat, pixels], {"axis": 0}, at=at)], at=at)
    probabilities = writer.op("Sigmoid", [writer.op("Gather", [logits, kept], {"axis": 0}, at=at)], at=at)
    size = writer.op("Slice", [shape, writer.constant([2]), writer.constant([4])], at=at)
    # The size 0 means: keep the number of rows, which may be zero.
    shape = writer.op("Concat", [writer.constant([0]), size], {"axis": 0}, at=at)
    writer.op("Reshape", [probabilities, shape], at=at, to="masks")


def all_finite(writer: OnnxWriter, tensors: Sequence[str], at: str) -> str:
    """bool []: whether every value is finite. The sum of finite values minus itself is 0; otherwise it is NaN."""
    sums = [writer.op("ReduceSum", [tensor], {"keepdims": 0}, at=at) for tensor in tensors]
    total = writer.op("Sum", sums, at=at)
    return equal(writer, writer.op("Sub", [total, total], at=at), writer.constant(0.0), at)


def equal(writer: OnnxWriter, a: str, b: str, at: str) -> str:
    """bool: where a and b, broadcast, are equal. onnxruntime has no CUDA kernel for `Equal` of operator set 19."""
    if writer.device == "cpu":
        return writer.op("Equal", [a, b], at=at)
    return writer.op("And", [writer.op(kind, [a, b], at=at) for kind in ("GreaterOrEqual", "LessOrEqual")], at=at)


def candidates(
    writer: OnnxWriter, raw: RawNames, settings: SOLOv2Postprocess, num_grids: tuple[int, ...], at: str
) -> Candidates:
    """Return the cells whose best class passes the score threshold; scores up to the threshold are zero."""
    # Levels, then cells in row-major order: [N, C, cells] and [N, E, cells].
    scores = [cells(writer, points_nms(writer, logits, at), at) for logits in raw.category_logits]
    scores = writer.op("Concat", scores, {"axis": 2}, at=at)
    kernels = writer.op("Concat", [cells(writer, kernel, at) for kernel in raw.kernels], {"axis": 2}, at=at)
    strides = writer.constant(np.repeat(np.array(settings.strides, np.float32), np.square(num_grids)))

    threshold = writer.constant(settings.score_threshold)
    highest = writer.op("ReduceMax", [scores, writer.constant([1])], {"keepdims": 0}, at=at)
    passing = writer.op("Greater", [highest, threshold], at=at)
    _, index = best(writer, highest, passing, int(np.square(num_grids).sum()), at)
    scores, kernels = (
        rows(writer, writer.op("Transpose", [x], {"perm": [0, 2, 1]}, at=at), index, at) for x in (scores, kernels)
    )
    passing = writer.op("Greater", [scores, threshold], at=at)
    return Candidates(
        scores=writer.op("Where", [passing, scores, writer.constant(0.0)], at=at),
        kernels=kernels,
        strides=writer.op("Gather", [strides, index], {"axis": 0}, at=at),
    )


def cells(writer: OnnxWriter, x: str, at: str) -> str:
    """[N, C, S, S] -> [N, C, S S]."""
    return writer.op("Reshape", [x, writer.constant([0, 0, -1])], at=at)


def points_nms(writer: OnnxWriter, logits: str, at: str) -> str:
    """Return scores [N, C, S, S]; zero if the upper, left or upper-left neighbour has a higher score."""
    scores = writer.op("Sigmoid", [logits], at=at)
    peaks = writer.op("MaxPool", [scores], {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [1, 1, 0, 0]}, at=at)
    lower = writer.op("Sub", [peaks, scores], at=at)
    equal = writer.op("LessOrEqual", [lower, writer.constant(EQUAL_SCORES)], at=at)
    return writer.op("Where", [equal, scores, writer.constant(0.0)], at=at)


def best(writer: OnnxWriter, values: str, taken: str, limit: int, at: str) -> tuple[str, str]:
    """The best taken values of each row, at most `limit`, and their positions: [N, X] -> two of [N, Y], best first.

    Y is the number that the fullest row needs, at least 1. Empty places have the value -1. Values are not negative.
    """
    counts = writer.op("Cast", [taken], {"to": writer.types.INT64}, at=at)
    counts = writer.op("ReduceSum", [counts, writer.constant([1])], {"keepdims": 0}, at=at)
    most = writer.op("ReduceMax", [counts, writer.constant([0])], {"keepdims": 1}, at=at)
    needed = writer.op("Max", [writer.op("Min", [most, writer.constant([limit])], at=at), writer.constant([1])], at=at)
    values = writer.op("Where", [taken, values, writer.constant(-1.0)], at=at)
    top, positions = writer.ops("TopK", [values, needed], {"axis": 1}, outputs=2, at=at)
    return top, positions


def rows(writer: OnnxWriter, x: str, index: str, at: str) -> str:
    """x [N, X, D] -> [N, Y, D]: the positions index [N, Y] of each image."""
    index = writer.op("Unsqueeze", [index, writer.constant([2])], at=at)
    return writer.op("GatherND", [x, index], {"batch_dims": 1}, at=at)


def elements(writer: OnnxWriter, x: str, index: str, at: str) -> str:
    """x [N, X] -> [N, Y]: the positions index [N, Y] of each image."""
    return writer.op("GatherElements", [x, index], {"axis": 1}, at=at)


def mask_statistics(writer: OnnxWriter, kernels: str, features: str, threshold: float, at: str) -> MaskStatistics:
    """Apply kernels [N, K, E] to features [N, E, h, w] strip by strip, so that [K, h w] floats never exist."""
    height, width = split(writer, size_of(writer, features, at), at)
    rows_at_once = writer.constant([STRIP_ROWS])
    strips = writer.op("Div", [height, rows_at_once], at=at)
    pixels = writer.op("Mul", [width, rows_at_once], at=at)
    shape = writer.op("Concat", [writer.constant([0, 0]), strips, pixels], {"axis": 0}, at=at)
    striped = writer.op("Reshape", [features, shape], at=at)

    # CPUs multiply masks as bytes. GPUs have no GatherND for bytes.
    masks_type = writer.types.UINT8 if writer.device == "cpu" else writer.types.BOOL
    names = {name: f"{at}.body.{name}" for name in ("index", "area", "sum", "areas", "sums", "mask")}

    def strip() -> None:
        here = f"{at}.body"
        piece = writer.op("Gather", [striped, names["index"]], {"axis": 2}, at=here)
        probabilities = writer.op("Sigmoid", [writer.op("MatMul", [kernels, piece], at=here)], at=here)
        inside = writer.op("ThresholdedRelu", [probabilities], {"alpha": threshold}, at=here)
        binary = names["mask"] if masks_type == writer.types.BOOL else None
        binary = writer.op("Cast", [inside], {"to": writer.types.BOOL}, at=here, to=binary)
        if binary != names["mask"]:
            writer.op("Cast", [binary], {"to": masks_type}, at=here, to=names["mask"])
        last = writer.constant([2])
        ones = writer.op("Cast", [binary], {"to": writer.types.FLOAT}, at=here)
        for values, before, after in ((ones, "area", "areas"), (inside, "sum", "sums")):
            total = writer.op("ReduceSum", [values, last], {"keepdims": 0}, at=here)
            writer.op("Add", [names[before], total], at=here, to=names[after])

    body = writer.body(
        "strip",
        [
            *(writer.value(names[name], writer.types.FLOAT, ["N", "K"]) for name in ("area", "sum")),
            writer.value(names["index"], writer.types.INT64, []),
        ],
        [
            *(writer.value(names[name], writer.types.FLOAT, ["N", "K"]) for name in ("areas", "sums")),
            writer.value(names["mask"], masks_type, ["N", "K", "pixels"]),
        ],
        strip,
    )
    slots = writer.op("Shape", [kernels], {"start": 0, "end": 2}, at=at)
    zeros = writer.op("Expand", [writer.constant(0.0), slots], at=at)
    indices = range_of(writer, strips, at)
    areas, sums, masks = writer.ops(
        "Scan", [zeros, zeros, indices], {"body": body, "num_scan_inputs": 1}, outputs=3, at=at
    )
    masks = writer.op("Transpose", [masks], {"perm": [1, 2, 0, 3]}, at=at)
    return MaskStatistics(areas, sums, writer.op("Reshape", [masks, writer.constant([0, 0, -1])], at=at))


def mask_scores(writer: OnnxWriter, statistics: MaskStatistics, strides: str, at: str) -> str:
    """Maskness [N, K]: the mean probability inside the mask; zero if its area is not larger than the stride."""
    areas = writer.op("Max", [statistics.areas, writer.constant(1.0)], at=at)
    means = writer.op("Div", [statistics.sums, areas], at=at)
    large = writer.op("Greater", [statistics.areas, strides], at=at)
    return writer.op("Where", [large, means, writer.constant(0.0)], at=at)


def intersections(writer: OnnxWriter, masks: str, at: str) -> str:
    """Masks [N, P, pixels] -> float32 [N, P, P], the number of pixels that two masks share.

    A CPU multiplies integers, which is faster. A GPU multiplies float32, because it has no kernel for integers.
    """
    if writer.device == "cpu":
        # The integer product of most CPUs takes signed and unsigned bytes.
        columns = writer.op("Cast", [masks], {"to": writer.types.INT8}, at=at)
        columns = writer.op("Transpose", [columns], {"perm": [0, 2, 1]}, at=at)
        common = writer.op("MatMulInteger", [masks, columns], at=at)
        return writer.op("Cast", [common], {"to": writer.types.FLOAT}, at=at)
    masks = writer.op("Cast", [masks], {"to": writer.types.FLOAT}, at=at)
    return writer.op("MatMul", [masks, writer.op("Transpose", [masks], {"perm": [0, 2, 1]}, at=at)], at=at)


def matrix_nms(writer: OnnxWriter, scores: str, labels: str, common: str, at: str, *, kernel: str, sigma: float) -> str:
    """Decayed scores [N, P] of pairs sorted by falling score. common: float32 [N, P, P], from `intersections`."""
    row, column = writer.constant([1]), writer.constant([2])
    count = writer.op("Shape", [scores], {"start": 1, "end": 2}, at=at)
    rank = range_of(writer, count, at)
    # areas [N, P], from the diagonal
    diagonal = equal(writer, writer.op("Unsqueeze", [rank, row], at=at), rank, at)
    own = writer.op("Where", [diagonal, common, writer.constant(0.0)], at=at)
    areas = writer.op("ReduceSum", [own, column], {"keepdims": 0}, at=at)
    both = writer.op("Add", [writer.op("Unsqueeze", [areas, axis], at=at) for axis in (column, row)], at=at)
    union = writer.op("Max", [writer.op("Sub", [both, common], at=at), writer.constant(1.0)], at=at)
    iou = writer.op("Div", [common, union], at=at)
    # iou[i, j]: overlap of j with a better i of its class, zero elsewhere.
    better = writer.op("Less", [writer.op("Unsqueeze", [rank, row], at=at), rank], at=at)
    below, beside = (writer.op("Unsqueeze", [labels, axis], at=at) for axis in (column, row))
    same = equal(writer, below, beside, at)
    iou = writer.op("Where", [writer.op("And", [better, same], at=at), iou, writer.constant(0.0)], at=at)
    own = writer.op("ReduceMax", [iou, row], {"keepdims": 0}, at=at)
    own = writer.op("Unsqueeze", [own, column], at=at)
    if kernel == "gaussian":
        iou, own = (writer.op("Mul", [x, x], at=at) for x in (iou, own))
        least = writer.op("ReduceMin", [writer.op("Sub", [own, iou], at=at), row], {"keepdims": 0}, at=at)
        decay = writer.op("Exp", [writer.op("Mul", [least, writer.constant(sigma)], at=at)], at=at)
    else:
        # An exact copy of a better mask must not decay others: its own factor is 1 / 0.
        one = writer.constant(1.0)
        own = writer.op("Max", [writer.op("Sub", [one, own], at=at), writer.constant(1e-6)], at=at)
        ratio = writer.op("Div", [writer.op("Sub", [one, iou], at=at), own], at=at)
        decay = writer.op("ReduceMin", [ratio, row], {"keepdims": 0}, at=at)
    return writer.op("Mul", [scores, decay], at=at)
