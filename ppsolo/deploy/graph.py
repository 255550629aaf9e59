"""The layers to export: the network with folded norms, alone or with postprocessing."""

import copy
from typing import cast

import numpy as np
import paddle
from paddle import nn

from ppsolo.models.layers import ConvNorm, DeformableConv
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import SOLOv2

PADDLE_3 = hasattr(paddle.inference.Config, "enable_new_ir")  # its static graphs have a new format
BATCH_NORMS = (nn.BatchNorm2D, nn.SyncBatchNorm)


class WholeGraph(nn.Layer):
    """Prepared images float32 [N, 3, H, W] -> the four arrays of `Detections`.

    If the network's output is not finite, which no image should cause, every count is -1 and the result is unusable.
    """

    def __init__(self, model: SOLOv2, postprocess: SOLOv2Postprocess):
        super().__init__()
        self.model = model
        self.postprocess = postprocess

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        return self._detect(image)

    @paddle.jit.not_to_static  # tracing alone is enough, and several times faster than rewriting the code
    def _detect(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        raw = self.model(image)
        found = self.postprocess(raw)
        heads = (*raw.category_logits, *raw.kernels, raw.mask_features)
        finite = paddle.stack([paddle.isfinite(head).all() for head in heads]).all().astype(found.counts.dtype)
        return found.scores, found.labels, found.masks, found.counts * finite + (finite - 1)


class NetworkGraph(nn.Layer):
    """Prepared images float32 [N, 3, H, W] -> `RawPredictions`, in the order of `RAW_OUTPUTS`."""

    def __init__(self, model: SOLOv2):
        super().__init__()
        self.model = model

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        return self._predict(image)

    @paddle.jit.not_to_static
    def _predict(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        raw = self.model(image)
        return (*raw.category_logits, *raw.kernels, raw.mask_features)


def fold_norms(model: SOLOv2) -> SOLOv2:
    """Copy the model in eval mode, with batch norms folded into the convolutions before them: equal up to rounding."""
    folded = copy.deepcopy(model)
    folded.eval()
    for block in folded.sublayers():
        if isinstance(block, ConvNorm) and isinstance(block.norm, BATCH_NORMS):
            _fold(block)
    return folded


def adapt_to_cpu(folded: SOLOv2) -> None:
    """Make each convolution of a folded model the fastest one for Paddle 3's inference on a CPU, in place.

    Deformable convolutions gather. Plain ones without bias get a zero bias, because oneDNN takes only convolutions with
    bias. Not for Paddle 2: there oneDNN takes all plain convolutions, and gathering graphs load for a minute and keep
    all gathered values.
    """
    for block in folded.sublayers():
        if isinstance(block, DeformableConv):
            block.gathers = True
        elif isinstance(block, nn.Conv2D) and block.bias is None:
            _add_bias(block, np.zeros(block.weight.shape[0], np.float32))


def folded_weights(
    conv: nn.Conv2D | paddle.vision.ops.DeformConv2D, norm: nn.Layer | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias of a convolution with the batch norm behind it as part of it; of the convolution alone if None.

    The norm has its running statistics. Computed in float64, returned as float32.
    """
    weight = _values(conv.weight)
    bias = None if conv.bias is None else _values(conv.bias)
    if norm is not None:
        mean, variance, factor, shift = (
            _values(cast(paddle.Tensor, tensor)) for tensor in (norm._mean, norm._variance, norm.weight, norm.bias)
        )
        scale = factor / np.sqrt(variance + norm._epsilon)
        shift = shift - mean * scale
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else bias * scale + shift
    return weight.astype(np.float32), None if bias is None else bias.astype(np.float32)


def _values(tensor: paddle.Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)


def _fold(block: ConvNorm) -> None:
    conv = block.conv.conv if isinstance(block.conv, DeformableConv) else block.conv
    weight, bias = folded_weights(conv, block.norm)
    assert bias is not None
    conv.weight.set_value(weight)
    if conv.bias is None:
        _add_bias(conv, bias)
    else:
        conv.bias.set_value(bias)
    block.norm = nn.Identity()


def _add_bias(conv: nn.Layer, values: np.ndarray) -> None:
    conv.bias = conv.create_parameter([len(values)], is_bias=True)
    conv.bias.set_value(values)
