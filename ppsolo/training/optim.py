"""The optimizer: learning rate and decay of each parameter, momentum, gradient clipping."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer.lr import LRScheduler

VELOCITY = "_velocity_"


class ParameterGroup(NamedTuple):
    """Parameters with the learning rate `lr_factor` times the scheduled one, and the L2 decay `weight_decay`."""

    parameters: list[paddle.Tensor]
    lr_factor: float
    weight_decay: float


def parameter_groups(
    model: nn.Layer,
    *,
    weight_decay: float = 1e-4,
    backbone_weight_decay: float | None = None,
    backbone_lr_factors: Sequence[float] = (),
    free_neck_bias: bool = False,
) -> list[ParameterGroup]:
    """Group the trainable parameters of a SOLOv2 model by learning-rate factor and L2 decay.

    - Scale and bias of every norm do not decay.
    - Biases of the deformable convolutions in both heads have twice the learning rate and do not decay. With
      `free_neck_bias`, the same holds for the neck's biases (as in PaddleDetection 0.5; not in 2.x).
    - `backbone_lr_factors` has one factor for each section of the backbone, or is empty. A section is one of a
      ResNet's 4 stages (the stem belongs to the first), or 3 blocks of a MobileNetV3 (the stem belongs to the first
      section, the last convolution to the last of 5). The backbone's offset convolutions are new: their factor is 1.
    - `backbone_weight_decay` replaces `weight_decay` in the backbone.

    Raises ValueError if nothing is trainable, or the number of factors is not the number of sections.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    if not trainable:
        raise ValueError("the model has no trainable parameter")
    names = [name for name, _ in model.named_parameters()]
    sections = 1 + max((_section(name) or 0 for name in names), default=0)
    if backbone_lr_factors and len(backbone_lr_factors) != sections:
        raise ValueError(
            f"backbone_lr_factors has {len(backbone_lr_factors)} entries, the backbone {sections} sections"
        )
    groups: dict[tuple[float, float], list[paddle.Tensor]] = {}
    for name, parameter in trainable.items():
        decay = weight_decay
        if name.startswith("backbone.") and backbone_weight_decay is not None:
            decay = backbone_weight_decay
        factor = 1.0
        if backbone_lr_factors and name.startswith("backbone.") and ".offset." not in name:
            section = _section(name)
            factor = backbone_lr_factors[-1 if section is None else section]
        if _is_norm(name):
            decay = 0.0
        elif _is_free_bias(name, free_neck_bias):
            factor, decay = 2.0, 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [ParameterGroup(parameters, factor, decay) for (factor, decay), parameters in groups.items()]


def _section(name: str) -> int | None:
    """Return the section of the backbone that holds a parameter; None for a parameter after the last section."""
    match = re.match(r"backbone\.(stem|stages|blocks)\.(\d*)", name)
    if match is None:
        return None
    if match[1] == "stem":
        return 0
    return int(match[2]) // (3 if match[1] == "blocks" else 1)


def _is_norm(name: str) -> bool:
    return ".norm." in name


def _is_free_bias(name: str, free_neck_bias: bool) -> bool:
    if name.startswith("neck."):
        return free_neck_bias and name.endswith(".bias")
    deformable = name.endswith((".conv.offset.bias", ".conv.conv.bias"))
    return deformable and not name.startswith("backbone.")


def build_optimizer(
    model: nn.Layer,
    schedule: LRScheduler,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    backbone_weight_decay: float | None = None,
    backbone_lr_factors: Sequence[float] = (),
    free_neck_bias: bool = False,
) -> paddle.optimizer.Momentum:
    """Stochastic gradient descent with momentum over `parameter_groups(model, ...)`, float32.

    v = momentum v + (gradient + decay p); p = p - rate factor v; no Nesterov. All velocities exist from the start,
    with the value 0, so that the state can be saved and loaded at any time. The model's gradients are cleared.
    """
    groups = parameter_groups(
        model,
        weight_decay=weight_decay,
        backbone_weight_decay=backbone_weight_decay,
        backbone_lr_factors=backbone_lr_factors,
        free_neck_bias=free_neck_bias,
    )
    # Without use_multi_tensor: it pairs parameters and gradients by place, so one without a gradient would mix them up.
    # It saves little: a step of R50 takes 2 kernels instead of 110, but 0.9 of the time, 163 ms for 181 on a CPU
    # (scripts/benchmark_update.py). The results are the same to the bit. A GPU was not at hand.
    optimizer = paddle.optimizer.Momentum(
        learning_rate=0.0,
        momentum=momentum,
        parameters=[
            {"params": group.parameters, "learning_rate": group.lr_factor, "weight_decay": group.weight_decay}
            for group in groups
        ],
    )
    # Paddle creates velocities in the first step, and only for parameters with a gradient: take one step at rate 0.
    for group in groups:
        for parameter in group.parameters:
            parameter.grad = paddle.zeros_like(parameter)
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)
    for velocity in _velocities(optimizer).values():
        velocity.zero_()
    optimizer.set_lr_scheduler(schedule)
    return optimizer


def clip_gradients(model: nn.Layer, max_norm: float) -> paddle.Tensor:
    """Scale all gradients of `model` so that their joint L2 norm is at most `max_norm`; never enlarge them.

    Returns the norm before scaling: a float32 scalar on the device. It is not finite if any gradient is not finite.
    With automatic mixed precision, unscale the gradients first.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    squares = [gradient.astype("float32").square().sum() for gradient in gradients]
    norm = paddle.stack(squares).sum().sqrt()
    factor = max_norm / norm.clip(min=max_norm)
    for gradient in gradients:
        gradient.multiply_(factor.astype(gradient.dtype))
    return norm


def optimizer_state(optimizer: paddle.optimizer.Momentum, model: nn.Layer) -> dict[str, np.ndarray]:
    """Return the velocity of every trainable parameter, by the parameter's name in `model.state_dict()`."""
    return {name: velocity.numpy() for name, velocity in _named_velocities(optimizer, model).items()}


def load_optimizer_state(
    optimizer: paddle.optimizer.Momentum, model: nn.Layer, state: Mapping[str, np.ndarray]
) -> None:
    """Load a result of `optimizer_state` into an optimizer of `build_optimizer`.

    Raises ValueError, and changes nothing, if a velocity is missing, unexpected or has the wrong shape.
    """
    velocities = _named_velocities(optimizer, model)
    faults = [f"missing {name}" for name in velocities if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in velocities]
    faults += [
        f"{name} is {list(state[name].shape)}, the model has {list(velocity.shape)}"
        for name, velocity in velocities.items()
        if name in state and tuple(state[name].shape) != tuple(velocity.shape)
    ]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ValueError(f"optimizer state does not fit the model: {', '.join(faults[:3])}{more}")
    for name, velocity in velocities.items():
        velocity.set_value(np.ascontiguousarray(state[name], dtype=np.float32))


def _velocities(optimizer: paddle.optimizer.Momentum) -> dict[str, paddle.Tensor]:
    """Map Paddle's name of each parameter to its velocity, the tensor that the optimizer itself uses."""
    return {name.rpartition(VELOCITY)[0]: tensor for name, tensor in optimizer.state_dict().items() if VELOCITY in name}


def _named_velocities(optimizer: paddle.optimizer.Momentum, model: nn.Layer) -> dict[str, paddle.Tensor]:
    velocities = _velocities(optimizer)
    return {name: velocities[p.name] for name, p in model.named_parameters() if not p.stop_gradient}
