"""ONNX graphs written from tiny models, in onnxruntime, against the models themselves."""

import numpy as np
import onnx
import onnx.defs
import onnx.shape_inference
import paddle
import pytest

from ppsolo import build_model, load_config
from ppsolo.deploy.onnx.graph import build_onnx
from ppsolo.deploy.onnx_runtime import OnnxEngine, OnnxSession
from ppsolo.interface import RAW_OUTPUTS
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import SOLOv2

SYSTEMS = {
    "plain": ("solov2_r50_fpn_1x", {}),
    "deformable everywhere, biases": ("solov2_r101_vd_fpn_3x_coco", {}),
    "light": ("solov2_light_r50_vd_fpn_dcn_512_3x", {"model.head.num_convs": 3}),
    "group norm": ("solov2_r50_fpn_1x", {"model.backbone.norm": "gn", "model.backbone.norm_groups": 4}),
    "mobile": ("solov2_mobilenetv3_fpn_448_3x", {"model.head.num_convs": 2, "model.backbone.scale": 0.25}),
}


def tiny_model(tiny, system: str) -> SOLOv2:
    """A tiny model with random weights and running statistics, deformable convolutions that really displace."""
    name, overrides = SYSTEMS[system]
    overrides = {**tiny, **overrides}
    if system == "mobile":
        overrides = {key: value for key, value in overrides.items() if not key.endswith(("depth", "width"))}
    model = build_model(load_config(name, overrides))
    random = np.random.default_rng(0)
    for key, tensor in model.state_dict().items():
        if key.endswith(("_variance", "norm.weight")):
            values = random.uniform(0.5, 2.0, tensor.shape)
        elif key.endswith("weight"):
            # Displacements that depend much on the features amplify what rounding does, layer by layer.
            spread = 0.1 if "offset" in key else 1.5
            values = random.normal(0, spread / np.prod(tensor.shape[1:]) ** 0.5, tensor.shape)
        else:
            values = random.normal(0, 0.5, tensor.shape)
        tensor.set_value(values.astype("float32"))
    model.eval()
    return model


def raw_predictions(model: SOLOv2, images: np.ndarray) -> list[np.ndarray]:
    with paddle.no_grad():
        raw = model(paddle.to_tensor(images))
    return [tensor.numpy() for tensor in (*raw.category_logits, *raw.kernels, raw.mask_features)]


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, shape).astype("float32")


@pytest.mark.parametrize("system", SYSTEMS)
def test_network(tiny, system):
    model = tiny_model(tiny, system)
    session = OnnxSession(build_onnx(model).SerializeToString(), RAW_OUTPUTS, threads=1)
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 32, 224)):
        images = pictures(*shape)
        for ours, theirs in zip(session(images), raw_predictions(model, images), strict=True):
            assert ours.shape == theirs.shape
            # float32 sums in another order
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def assert_same_instances(model: SOLOv2, postprocess: SOLOv2Postprocess, images: np.ndarray, device: str) -> np.ndarray:
    """The graph's instances are the model's; gives their numbers."""
    ours = OnnxEngine(build_onnx(model, postprocess, device=device).SerializeToString(), threads=1).run(images)
    with paddle.no_grad():
        expected = [tensor.numpy() for tensor in postprocess(model(paddle.to_tensor(images)))]
    for values, theirs in zip(ours, expected, strict=True):
        assert values.shape == theirs.shape and values.dtype == theirs.dtype
    scores, labels, masks, counts = expected
    assert ours.counts.tolist() == counts.tolist()
    # In no defined order where scores are equal, to rounding.
    np.testing.assert_allclose(ours.scores, scores, atol=1e-5)
    ends = np.cumsum(counts)
    for start, end in zip(ends - counts, ends, strict=True):
        free = set(range(start, end))
        for row in range(start, end):
            same = [
                other
                for other in free
                if labels[other] == ours.labels[row]
                and abs(scores[other] - ours.scores[row]) < 1e-5
                and np.abs(masks[other] - ours.masks[row]).max() < 1e-4
            ]
            assert same, f"row {row} is no instance of the model"
            free.remove(same[0])
    return counts


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pre_nms_top_n": 20},
        {"max_instances": 7},
        {"nms_kernel": "linear", "mask_threshold": 0.4, "nms_sigma": 1.0},
        {"score_threshold": 0.999},
        {"update_threshold": 2.0},
    ],
    ids=str,
)
def test_instances(tiny, settings, device):
    model = tiny_model(tiny, "plain")
    counts = assert_same_instances(model, SOLOv2Postprocess(**settings), pictures(1, 3, 64, 96), device)
    nothing = "update_threshold" in settings or "score_threshold" in settings
    assert (counts == 0).all() if nothing else (counts > 5).all()


def test_batch_with_different_numbers_of_instances(tiny):
    model = tiny_model(tiny, "light")
    images = pictures(8, 3, 64, 64) * np.linspace(0, 1, 8, dtype="float32").reshape([8, 1, 1, 1])
    counts = assert_same_instances(model, SOLOv2Postprocess(score_threshold=0.9), images, "cpu")
    assert len(set(counts.tolist())) > 3


@pytest.mark.parametrize("size", [(32, 32), (32, 480), (480, 32)])
def test_extreme_shapes(tiny, size):
    assert_same_instances(tiny_model(tiny, "plain"), SOLOv2Postprocess(), pictures(1, 3, *size), "cpu")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_told(tiny, value):
    model = tiny_model(tiny, "plain")
    engine = OnnxEngine(build_onnx(model, SOLOv2Postprocess()).SerializeToString(), threads=1)
    images = pictures(2, 3, 32, 32)
    images[0, 0, 5, 5] = value
    assert engine.run(images).counts.tolist() == [-1, -1]


def test_what_a_graph_says_of_itself(tiny):
    import onnx

    model = tiny_model(tiny, "plain")
    graph = build_onnx(model, SOLOv2Postprocess())
    onnx.checker.check_model(graph, full_check=True)
    assert graph.graph.name == "solov2"
    assert [output.name for output in graph.graph.output] == ["scores", "labels", "masks", "counts"]
    assert {entry.key for entry in graph.metadata_props} == {"ppsolo", "paddle"}
    assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)
    with pytest.raises(ValueError, match="'tpu'"):
        build_onnx(model, device="tpu")


# The CUDA kernels of onnxruntime for operator set 19 (its docs/OperatorKernels.md of 2025): the versions of an operator
# that a kernel serves, first and last. One without a last serves the operators that last changed in the first alone.
CUDA_KERNELS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Relu", "CumSum"), (14, None)),
    **dict.fromkeys(("Concat", "Expand", "Gather", "GatherElements", "GatherND", "Slice", "NonZero"), (13, None)),
    **dict.fromkeys(("Equal", "Exp", "Greater", "Less", "MatMul", "Max", "Min", "Mod", "Sigmoid", "Sum"), (13, None)),
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual", "Where"), (16, None)),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "Split"), (18, None)),
    **dict.fromkeys(("Resize", "Scan"), (19, None)),
    **dict.fromkeys(("Cast", "Reshape", "Shape"), (19, 20)),
    **dict.fromkeys(("Transpose", "Unsqueeze"), (13, 20)),
    "And": (7, None),
    "AveragePool": (19, 21),
    "Conv": (11, 21),
    "DeformConv": (19, None),  # since 1.25, not in that table
    "GlobalAveragePool": (1, None),
    "HardSigmoid": (6, 21),
    "HardSwish": (14, 21),
    "InstanceNormalization": (6, None),
    "MaxPool": (12, None),
    "ReduceSum": (13, None),
    "ThresholdedRelu": (10, None),
    "TopK": (11, None),
}
CUDA_GATHER_ND = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}


def nodes_of(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def on_the_cpu(model) -> set[str]:
    """Operators of a model for which no CUDA kernel is registered."""
    (opset,) = {entry.version for entry in model.opset_import}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    types |= {constant.name: constant.data_type for constant in inferred.initializer}
    found = set()
    for node in nodes_of(model.graph):
        since = onnx.defs.get_schema(node.op_type, opset).since_version
        first, last = CUDA_KERNELS.get(node.op_type, (0, None))
        served = since == first if last is None else first <= since <= last
        if node.op_type == "GatherND":
            served = served and types[node.input[0]] in CUDA_GATHER_ND
        if not served:
            found.add(node.op_type)
    return found


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_operator_of_a_graph_for_gpus_has_a_cuda_kernel(tiny, system, kernel):
    model, settings = tiny_model(tiny, system), SOLOv2Postprocess(nms_kernel=kernel)
    assert on_the_cpu(build_onnx(model, settings, device="gpu")) == set()
    assert {"Equal", "GatherND", "MatMulInteger", "ReduceMax"} <= on_the_cpu(build_onnx(model, settings))
