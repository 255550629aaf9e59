"""Graphs for PaddleDetection's deploy tools and PaddleX: their names, and masks at the image's size."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppsolo.deploy.graph import PADDLE_3
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import SOLOv2

STRIDE = 4  # stride of the masks from postprocessing
INPUTS = ("image", "im_shape", "scale_factor")
PADDLEX_OUTPUTS = ("bbox_num", "label", "score", "segm")
# Its deploy scripts read outputs by place: up to release/2.7, for Paddle 2, as PaddleX does; from 2.7.1 on masks first.
OUTPUTS = ("segm", "bbox_num", "label", "score", "masks") if PADDLE_3 else (*PADDLEX_OUTPUTS, "masks")


class PaddleDetectionGraph(nn.Layer):
    """One prepared image, its resized size and its scale -> instances with masks at the original size.

    image: float32 [1, 3, H, W]. im_shape: float32 [1, 2], height and width after the resize. scale_factor: float32
    [1, 2], the scale factors of height and width.
    Outputs, in the order of OUTPUTS: segm uint8 [M, height, width]; bbox_num int32 [1], M; label int64 [M]; score
    float32 [M]. A fifth output is for ppsolo, which resizes masks itself: probabilities at stride 4, float32
    [M, H / 4, W / 4].
    """

    def __init__(self, model: SOLOv2, postprocess: SOLOv2Postprocess, mask_threshold: float):
        super().__init__()
        self.model = model
        self.postprocess = postprocess
        self.mask_threshold = mask_threshold

    def forward(
        self, image: paddle.Tensor, im_shape: paddle.Tensor, scale_factor: paddle.Tensor
    ) -> tuple[paddle.Tensor, ...]:
        segm, count, labels, scores, masks = self._detect(image, im_shape, scale_factor)
        return (segm, count, labels, scores, masks) if PADDLE_3 else (count, labels, scores, segm, masks)

    @paddle.jit.not_to_static
    def _detect(
        self, image: paddle.Tensor, im_shape: paddle.Tensor, scale_factor: paddle.Tensor
    ) -> tuple[paddle.Tensor, ...]:
        found = self.postprocess(self.model(image))
        resized = im_shape[0].round().astype("int32")
        original = (im_shape[0] / scale_factor[0]).round().astype("int32")
        # A row of zeros is resized too, because there may be no masks.
        rows, columns = paddle.shape(found.masks)[1], paddle.shape(found.masks)[2]
        none = paddle.zeros(paddle.stack([paddle.ones_like(rows), rows, columns]), found.masks.dtype)
        masks = paddle.concat([found.masks, none]).unsqueeze(0)
        masks = F.interpolate(masks, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        masks = paddle.slice(masks, axes=[2, 3], starts=[0, 0], ends=[resized[0], resized[1]])
        masks = F.interpolate(masks, size=[original[0], original[1]], mode="bilinear", align_corners=False)
        segm = (masks[0] > self.mask_threshold).astype("uint8")
        segm = paddle.slice(segm, axes=[0], starts=[0], ends=[paddle.shape(found.scores)[0]])
        return segm, found.counts.astype("int32"), found.labels, found.scores, found.masks


class PaddleXGraph(PaddleDetectionGraph):
    """The same inputs, and the four outputs of PaddleX in its order: bbox_num, label, score, segm."""

    def forward(
        self, image: paddle.Tensor, im_shape: paddle.Tensor, scale_factor: paddle.Tensor
    ) -> tuple[paddle.Tensor, ...]:
        segm, count, labels, scores, _ = self._detect(image, im_shape, scale_factor)
        return count, labels, scores, segm
