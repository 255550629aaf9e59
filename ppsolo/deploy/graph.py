"""What is exported: the network with its norms folded, alone or with postprocessing, as one layer that traces."""

import copy
from typing import cast

import numpy as np
import paddle
from paddle import nn

from ppsolo.models.deformable import DeformableConv
from ppsolo.models.layers import ConvNorm
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import SOLOv2

PADDLE_3 = hasattr(paddle.inference.Config, "enable_new_ir")  # its static graphs are other ones than before


class WholeGraph(nn.Layer):
    """Prepared images float32 [N, 3, H, W] -> the four arrays of `Detections`.

    Where the network's output is not finite, which no image may cause, every count is -1: then nothing that was
    found can be used.
    """

    def __init__(self, model: SOLOv2, postprocess: SOLOv2Postprocess):
        super().__init__()
        self.model = model
        self.postprocess = postprocess

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        return self._detect(image)

    @paddle.jit.not_to_static  # there is nothing to rewrite in what is called: tracing alone is several times faster
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
    """A copy in eval mode whose batch norms are part of the convolutions before them: the same but for rounding."""
    folded = copy.deepcopy(model)
    folded.eval()
    for block in folded.sublayers():
        if isinstance(block, ConvNorm) and isinstance(block.norm, nn.BatchNorm2D | nn.SyncBatchNorm):
            _fold(block)
    return folded


def adapt_to_cpu(folded: SOLOv2) -> None:
    """Have each convolution of a folded model computed by what is fastest in Paddle 3's inference on a CPU, in place.

    Deformable ones gather. Plain ones get a bias, of zeros where they have none: only those that have one go to oneDNN.
    In Paddle 2 the latter do so anyway, and gathering graphs load for a minute and keep all that they gather.
    """
    for block in folded.sublayers():
        if isinstance(block, DeformableConv):
            block.gathers = True
        elif isinstance(block, nn.Conv2D) and block.bias is None:
            _add_bias(block, np.zeros(block.weight.shape[0], np.float32))


def folded_batch_norm(norm: nn.Layer) -> tuple[np.ndarray, np.ndarray]:
    """What a batch norm with its running statistics does to each channel: (scale, shift), float64 [C]."""
    mean, variance, weight, bias = (
        cast(paddle.Tensor, tensor).numpy().astype(np.float64)
        for tensor in (norm._mean, norm._variance, norm.weight, norm.bias)
    )
    scale = weight / np.sqrt(variance + norm._epsilon)
    return scale, bias - mean * scale


def _fold(block: ConvNorm) -> None:
    conv, norm = block.conv, block.norm
    conv = conv.conv if isinstance(conv, DeformableConv) else conv
    scale, shift = folded_batch_norm(norm)
    weight = conv.weight.numpy() * scale[:, None, None, None]
    conv.weight.set_value(weight.astype(np.float32))
    if conv.bias is None:
        _add_bias(conv, shift.astype(np.float32))
    else:
        conv.bias.set_value((conv.bias.numpy() * scale + shift).astype(np.float32))
    block.norm = nn.Identity()


def _add_bias(conv: nn.Layer, values: np.ndarray) -> None:
    conv.bias = conv.create_parameter([len(values)], is_bias=True)
    conv.bias.set_value(values)
