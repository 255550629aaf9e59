"""Builds the network of a configuration, and its postprocessing in Paddle."""

from typing import TYPE_CHECKING

from ppsolo.models.fpn import FPN
from ppsolo.models.layers import Norm
from ppsolo.models.solov2 import MaskFeatureHead, SOLOv2, SOLOv2Head
from ppsolo.schema import BackboneConfig, Config

if TYPE_CHECKING:
    from ppsolo.models.mobilenetv3 import MobileNetV3
    from ppsolo.models.postprocess import SOLOv2Postprocess
    from ppsolo.models.resnet import ResNet

RESNET_BLOCKS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def build_model(config: Config) -> SOLOv2:
    """Return the network of `config`, freshly initialised, in train mode.

    backbone: image [N, 3, H, W] -> C2..C5, strides 4..32
    neck: C2..C5 -> P2..P6, strides 4..64
    mask_feature_head: P2..P5 -> [N, E, H/4, W/4]
    head: P2..P6 -> per level category logits [N, C, S, S] and kernels [N, E, S, S]

    >>> import paddle, ppsolo
    >>> model = ppsolo.build_model(ppsolo.load_config("demo"))
    >>> list(model(paddle.zeros([1, 3, 64, 96])).mask_features.shape)
    [1, 32, 16, 24]
    """
    model = config.model
    backbone = build_backbone(model.backbone)
    return SOLOv2(
        backbone=backbone,
        neck=FPN(backbone.out_channels, model.neck.channels),
        mask_feature_head=MaskFeatureHead(
            in_channels=model.neck.channels,
            mid_channels=model.mask_feature_head.mid_channels,
            out_channels=model.mask_feature_head.out_channels,
            norm=Norm("gn", groups=model.norm_groups),
            deformable=model.mask_feature_head.deformable,
            dcn_bias=model.dcn_bias,
        ),
        head=SOLOv2Head(
            num_classes=config.num_classes,
            in_channels=model.neck.channels,
            channels=model.head.channels,
            num_convs=model.head.num_convs,
            kernel_channels=model.mask_feature_head.out_channels,
            num_grids=model.head.num_grids,
            dcn_layers=model.head.dcn_layers,
            dcn_bias=model.dcn_bias,
            norm=Norm("gn", groups=model.norm_groups),
            drop_block=model.head.drop_block,
        ),
    )


def build_backbone(config: BackboneConfig) -> "ResNet | MobileNetV3":
    """Return the backbone alone, with `out_channels` of C2..C5."""
    norm = Norm(config.norm, frozen=config.freeze_norm, groups=config.norm_groups)
    if config.type == "mobilenetv3":
        from ppsolo.models.mobilenetv3 import MobileNetV3

        return MobileNetV3(scale=config.scale, norm=norm)
    from ppsolo.models.resnet import ResNet

    return ResNet(
        blocks=RESNET_BLOCKS[config.depth],
        variant=config.variant,
        dcn_stages=config.dcn_stages,
        norm=norm,
        frozen_stages=config.frozen_stages,
        width=config.width,
    )


def build_postprocess(config: Config) -> "SOLOv2Postprocess":
    """Return the postprocessing in Paddle."""
    from ppsolo.models.postprocess import SOLOv2Postprocess

    postprocess = config.postprocess
    return SOLOv2Postprocess(
        strides=postprocess.strides,
        score_threshold=postprocess.score_threshold,
        mask_threshold=postprocess.mask_threshold,
        update_threshold=postprocess.update_threshold,
        pre_nms_top_n=postprocess.pre_nms_top_n,
        max_instances=postprocess.max_instances,
        nms_kernel=postprocess.nms_kernel,
        nms_sigma=postprocess.nms_sigma,
    )
