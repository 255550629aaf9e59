"""The schema of a configuration: frozen dataclasses with defaults."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class BackboneConfig:
    """The backbone: ResNet or MobileNetV3, both with C2 to C5 as outputs.

    Attributes:
        type: the family.
        depth: layers of a ResNet; 14 and 26 are small ones for tests and small data sets.
        variant: "b", or "d" with the deeper stem and average pooling in the shortcuts (ResNet-vd).
        dcn_stages: stages, counted from 1, whose 3x3 convolutions are deformable.
        width: channels of the first stage of a ResNet, 64 in the published systems.
        scale: factor of MobileNetV3's widths.
        norm: "bn", "sync_bn" (statistics over all processes; needs a GPU) or "gn".
        norm_groups: groups of "gn".
        freeze_norm: keep the statistics and the affine parameters of "bn" fixed. "gn" ignores it.
        frozen_stages: -1 trains all, 0 freezes the stem, n freezes the stem and the stages 1 to n.
    """

    type: Literal["resnet", "mobilenetv3"] = "resnet"
    depth: Literal[14, 26, 50, 101] = 50
    variant: Literal["b", "d"] = "b"
    dcn_stages: tuple[int, ...] = ()
    width: int = 64
    scale: float = 1.0
    norm: Literal["bn", "sync_bn", "gn"] = "bn"
    norm_groups: int = 32
    freeze_norm: bool = True
    frozen_stages: int = 1


@dataclass(frozen=True)
class NeckConfig:
    """The FPN.

    Attributes:
        channels: channels of every pyramid level, P2 to P6.
    """

    channels: int = 256


@dataclass(frozen=True)
class MaskFeatureHeadConfig:
    """The mask-feature head.

    Attributes:
        mid_channels: channels of its towers.
        out_channels: channels of the mask features, and so the length of every predicted kernel.
        deformable: use deformable convolutions.
    """

    mid_channels: int = 128
    out_channels: int = 256
    deformable: bool = False


@dataclass(frozen=True)
class HeadConfig:
    """The SOLOv2 head: one tower for categories and one for kernels, shared by five levels.

    Attributes:
        channels: channels of the towers.
        num_convs: convolutions of each tower.
        dcn_layers: deformable convolutions of each tower, counted from 0.
        drop_block: DropBlock on the towers in training (Ghiasi et al., arXiv 1810.12890).
        num_grids: cells along one side of the grid, level by level, the finest first.
    """

    channels: int = 512
    num_convs: int = 4
    dcn_layers: tuple[int, ...] = ()
    drop_block: bool = False
    num_grids: tuple[int, ...] = (40, 36, 24, 16, 12)


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        backbone, neck, mask_feature_head, head: its parts.
        norm_groups: groups of the group norms in both heads.
        dcn_bias: give the deformable convolutions of both heads a bias.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)
    mask_feature_head: MaskFeatureHeadConfig = field(default_factory=MaskFeatureHeadConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    norm_groups: int = 32
    dcn_bias: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes the network's input; see `ppsolo.data.preprocess.Preprocess`.

    Attributes:
        short_side: pixels of the shorter side after the resize.
        long_side: most pixels of the longer side; the image is scaled less if it would be exceeded.
        mean, std: normalisation of R, G and B, for values in [0, 1].
        normalize_first: normalise before the resize (PaddleDetection 2.x) or after it (0.5).
        round_sides: round the sides first and scale each by its own ratio (2.x), or scale both by one ratio (0.5).
        value_range: values that become 0 and 255 in pictures of more than 8 bits: "dtype" (the whole range of the
            type), "auto" (each picture's smallest and largest), [low, high], or percentiles such as [1%, 99%].
        page: page of a stack to read, from 0; null reads the first one and notes that there are more.
        channels: one to three channels that become red, green and blue, from 0; empty: grey or the first three.
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    normalize_first: bool = False
    round_sides: bool = False
    value_range: Literal["dtype", "auto"] | tuple[float | str, ...] = "dtype"
    page: int | None = None
    channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class PostprocessConfig:
    """How raw predictions become instances; see `ppsolo.results.postprocess.NumpyPostprocess`.

    Attributes:
        strides: per level, the area in mask pixels that a mask must exceed.
        score_threshold: least class score of a candidate, before masks are made.
        mask_threshold: least probability of a pixel in a mask.
        update_threshold: least score of an instance after Matrix NMS.
        pre_nms_top_n: most candidates that Matrix NMS compares.
        max_instances: most instances of an image.
        nms_kernel, nms_sigma: the decay of Matrix NMS (SOLOv2 sec. 3.3).
        class_thresholds: least score of an instance for each class; `ppsolo eval --find_thresholds` finds them.
            Empty: none.
    """

    strides: tuple[int, ...] = (8, 8, 16, 32, 32)
    score_threshold: float = 0.1
    mask_threshold: float = 0.5
    update_threshold: float = 0.05
    pre_nms_top_n: int = 500
    max_instances: int = 100
    nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    nms_sigma: float = 2.0
    class_thresholds: tuple[float, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """A data set in COCO's format.

    Attributes:
        root: folder that the other paths are relative to.
        train_annotations, train_images: JSON file for training, and the folder of its pictures.
        val_annotations, val_images: the same for evaluation; "" trains without evaluation.
        box_convention: "exclusive": x2 = x + width (2.x); "inclusive": x2 = x + width - 1 (0.5).
        keep_empty: keep pictures without an instance.
        num_workers: processes that prepare batches, per training process; 0: prepare them between the steps.
    """

    root: str = "data/coco"
    train_annotations: str = "annotations/instances_train2017.json"
    train_images: str = "train2017"
    val_annotations: str = "annotations/instances_val2017.json"
    val_images: str = "val2017"
    box_convention: Literal["exclusive", "inclusive"] = "exclusive"
    keep_empty: bool = False
    num_workers: int = 4


@dataclass(frozen=True)
class AugmentConfig:
    """Changes of a training image, in this order; see `ppsolo.data.augment`.

    Attributes:
        color: change brightness, contrast, saturation and hue, with the arithmetic of "hsv" or "yiq"; "none": no
        change.
        crop: crop a random part; instances that lose every pixel are kept or dropped.
        short_sides: sizes of the shorter side; one is drawn for each image.
        long_side: most pixels of the longer side.
        flip: mirror half of the images from left to right.
        turn: turn images by 0, 90, 180 or 270 degrees.
    """

    color: Literal["none", "hsv", "yiq"] = "none"
    crop: Literal["none", "keep_empty_masks", "drop_empty_masks"] = "none"
    short_sides: tuple[int, ...] = (800,)
    long_side: int = 1333
    flip: bool = True
    turn: bool = False


@dataclass(frozen=True)
class TargetsConfig:
    """Assignment of instances to levels and cells; see `ppsolo.data.targets.make_targets`.

    Attributes:
        scale_ranges: per level, [smallest, largest] square root of the box area, in pixels of the resized image.
        sampling_radius: share of the box, around its centre, whose cells learn the object (SOLO sec. 3.3.1).
    """

    scale_ranges: tuple[tuple[float, ...], ...] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    sampling_radius: float = 0.2


@dataclass(frozen=True)
class LossConfig:
    """The losses; see `ppsolo.models.losses.SOLOv2Criterion`.

    Attributes:
        mask_weight: weight of the masks' Dice loss; the categories' focal loss has the weight 1.
        focal_alpha, focal_gamma: parameters of the focal loss (Lin et al., arXiv 1708.02002).
    """

    mask_weight: float = 3.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


@dataclass(frozen=True)
class OptimizerConfig:
    """Stochastic gradient descent with momentum; see `ppsolo.training.optim.build_optimizer`.

    Attributes:
        momentum: kept share of the last step's velocity.
        weight_decay: L2 penalty of the weights.
        backbone_weight_decay: the same for the backbone; null: no difference.
        backbone_lr_factors: factor of the learning rate for each stage of the backbone; empty: 1.
        free_neck_bias: no weight decay for the biases of the neck.
        clip_norm: largest joint norm of all gradients; null: no limit.
    """

    momentum: float = 0.9
    weight_decay: float = 1e-4
    backbone_weight_decay: float | None = None
    backbone_lr_factors: tuple[float, ...] = ()
    free_neck_bias: bool = False
    clip_norm: float | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate during a run, after a linear warm-up.

    Attributes:
        type: "steps": times gamma at every milestone; "cosine": down to 0 along half a cosine.
        learning_rate: base rate for steps of `images_per_step` images.
        images_per_step: number of images per step, over all processes, that `learning_rate` is meant for.
        scale_to_batch: scale the rate to the actual number of images per step.
        warmup_steps: steps of the warm-up; "auto": a tenth of the run, at most 1000.
        milestones: epochs after which "steps" lowers the rate.
        gamma: factor at a milestone.
    """

    type: Literal["steps", "cosine"] = "steps"
    learning_rate: float = 0.01
    images_per_step: int = 16
    scale_to_batch: bool = True
    warmup_steps: int | Literal["auto"] = 1000
    milestones: tuple[int, ...] = (8, 11)
    gamma: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        output_dir: folder of the run's directory, which has the configuration's name.
        epochs: passes over the data set.
        batch_size: images per process in one run of the network.
        accumulate: batches per optimizer step.
        seed: every random number of the run follows from it.
        ema_decay: decay of the average of the weights, which is evaluated and saved; null: no average.
        amp: automatic mixed precision on a GPU, "O1" or "O2". Parameters stay float32.
        non_finite: at a loss or a gradient that is NaN or infinite, "stop" the run or "skip" the step; the log names
            the images. "skip" makes a GPU wait at every step.
        evaluate_every: epochs from one evaluation to the next; 0: none.
        patience: evaluations without a better AP after which training ends; 0: never.
        pictures: validation images to draw at every evaluation.
        checkpoint_steps: steps between training states within an epoch; the end of an epoch always writes one.
        keep_checkpoints: number of training states to keep, the newest ones.
        log_every: steps between log lines.
        sinks: trackers that get the metrics, in addition to log.jsonl and log.csv.
        augment, targets, loss, optimizer, schedule: the parts of the recipe.
    """

    output_dir: str = "output"
    epochs: int = 12
    batch_size: int = 2
    accumulate: int = 1
    seed: int = 0
    ema_decay: float | None = None
    amp: Literal["none", "O1", "O2"] = "none"
    non_finite: Literal["stop", "skip"] = "stop"
    evaluate_every: int = 1
    patience: int = 0
    pictures: int = 4
    checkpoint_steps: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 20
    sinks: tuple[Literal["visualdl", "tensorboard", "mlflow", "wandb"], ...] = ("visualdl",)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass(frozen=True)
class Config:
    """One system.

    Attributes:
        name: name of the system, its runs and its exports; default: the name of its file.
        weights: a published name, a checkpoint file, its stem or an https address; null: none.
        pretrained_backbone: ImageNet weights that training starts from if `weights` is null: a published name, a
            file, its stem or an https address.
        num_classes: classes of the data set.
        class_names: one per class; empty: COCO's for 80 classes, else "class 0" and so on.
        category_ids: the ids in COCO results, one per class; empty: COCO's for 80 classes, else 1, 2, and so on.
        model, preprocess, postprocess, data, train: the parts.
    """

    name: str = ""
    weights: str | None = None
    pretrained_backbone: str | None = None
    num_classes: int = 80
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
