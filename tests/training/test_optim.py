"""The schedule, who learns and decays how much, momentum, clipping, and the optimizer's state."""

import json

import numpy as np
import paddle
import pytest
from paddle import nn

from ppsolo.build.network import build_model
from ppsolo.config import load_config
from ppsolo.legacy.names import STATIC, generation_of, published_names
from ppsolo.training.optim import (
    build_optimizer,
    clip_gradients,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
)
from ppsolo.training.schedule import WarmupPiecewise

LIGHT_FACTORS = (0.05, 0.05, 0.1, 0.15)
# What each published system learns with, beside the defaults.
SYSTEMS = {
    "solov2_r50_fpn_1x": {"free_neck_bias": True},
    "solov2_r50_fpn_3x": {"free_neck_bias": True},
    "solov2_r101_vd_fpn_3x": {"free_neck_bias": True},
    "solov2_light_r50_vd_fpn_dcn_512_3x": {"free_neck_bias": True, "backbone_lr_factors": LIGHT_FACTORS},
    "solov2_mobilenetv3_fpn_448_3x": {
        "free_neck_bias": True,
        "backbone_lr_factors": (0.25, 0.25, 0.5, 0.5, 0.75),
        "backbone_weight_decay": 1e-5,
    },
    "solov2_r50_fpn_1x_coco": {},
    "solov2_r50_fpn_3x_coco": {},
    "solov2_r101_vd_fpn_3x_coco": {},
    "solov2_r50_enhance_coco": {"backbone_lr_factors": LIGHT_FACTORS},
}
# Narrow: names and what is trainable do not depend on widths.
NARROW = {
    "model.backbone.width": 8,
    "model.backbone.scale": 0.25,
    "model.neck.channels": 16,
    "model.mask_feature_head.mid_channels": 8,
    "model.mask_feature_head.out_channels": 8,
    "model.head.channels": 16,
    "model.norm_groups": 4,
}


def rates(schedule, steps):
    values = []
    for _ in range(steps):
        values.append(schedule())
        schedule.step()
    return values


class Tree(nn.Layer):
    """Parameters with given dotted names."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            layer = self
            *path, last = name.split(".")
            for part in path:
                if part not in layer._sub_layers:
                    layer.add_sublayer(part, nn.Layer())
                layer = layer._sub_layers[part]
            layer.add_parameter(last, layer.create_parameter(shape))


def constant(rate):
    return WarmupPiecewise(base=rate, warmup_steps=0, milestones=())


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name.endswith("_coco")])
def test_schedule_as_recorded(reference, system):
    recorded = json.loads((reference / "golden" / "dygraph__lr_schedule.json").read_text())[system]
    assert len(recorded) == 4
    for key, trace in recorded.items():
        schedule = WarmupPiecewise(
            base=0.01,
            warmup_steps=2000 if "r101" in system else 1000,
            milestones=(8, 11) if "1x" in system else (24, 33),
            steps_per_epoch=int(key.removeprefix("steps_per_epoch=")),
        )
        for step, rate in trace.items():
            schedule.step(int(step))
            assert np.float32(schedule()) == np.float32(rate), (key, step)


def test_schedule_step_by_step():
    schedule = WarmupPiecewise(base=1.0, warmup_steps=4, milestones=(5, 3), steps_per_epoch=2)
    expected = [0, 0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert rates(schedule, 12) == pytest.approx(expected, rel=1e-15)


def test_warm_up_wins_over_milestones_within_it():
    schedule = WarmupPiecewise(base=1.0, warmup_steps=4, milestones=(1, 2, 6), gamma=0.5)
    assert rates(schedule, 8) == [0, 0.25, 0.5, 0.75, 0.25, 0.25, 0.125, 0.125]


def test_schedule_resumes():
    through, first, resumed = (WarmupPiecewise(base=0.3, warmup_steps=7, milestones=(9, 12)) for _ in range(3))
    rates(first, 5)
    resumed.set_state_dict(first.state_dict())
    assert rates(resumed, 10) == rates(through, 15)[5:]


def test_schedule_refuses_nonsense():
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmupPiecewise(base=1.0, warmup_steps=-1, milestones=())
    with pytest.raises(ValueError, match="steps_per_epoch"):
        WarmupPiecewise(base=1.0, warmup_steps=0, milestones=(), steps_per_epoch=0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_groups_as_recorded(reference, system):
    manifest = json.loads((reference / "manifests" / f"{system}.manifest.json").read_text())
    generation = generation_of(manifest)
    if generation == STATIC:
        attributes = json.loads((reference / "manifests" / f"{system}.train_attrs.json").read_text())
        trained = {name for name, entry in attributes.items() if entry["has_optimizer_op"]}
        decays = {name: entry["l2_decay_override"] for name, entry in attributes.items()}
    else:
        attributes = {name: entry for name, entry in manifest.items() if "alias_of" not in entry}
        trained = {name for name, entry in attributes.items() if entry["trainable"] and not entry["stop_gradient"]}
        decays = {name: {"L2Decay(0)": 0.0, None: None}[entry["regularizer"]] for name, entry in attributes.items()}
    model = build_model(load_config(system, NARROW))
    names = published_names(model.state_dict(), generation)
    published = {parameter.name: names[name] for name, parameter in model.named_parameters()}
    ours = {
        published[parameter.name]: (group.lr_factor, group.weight_decay)
        for group in parameter_groups(model, **SYSTEMS[system])
        for parameter in group.parameters
    }
    expected = {name: (attributes[name]["lr_mult"], 1e-4 if decays[name] is None else decays[name]) for name in trained}
    assert ours == expected


def test_groups_refuse_what_does_not_fit(tiny):
    model = build_model(load_config("solov2_r50_fpn_1x", tiny))
    with pytest.raises(ValueError, match="2 entries, the backbone 4 sections"):
        parameter_groups(model, backbone_lr_factors=(0.1, 1.0))
    for parameter in model.parameters():
        parameter.stop_gradient = True
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(model)


def test_momentum_as_recorded(reference):
    with np.load(reference / "golden" / "dygraph__ops.npz") as recorded:
        start, gradients, after = (recorded[f"mom_{key}"] for key in ("p0", "grad", "p"))
    # One row each: plain, a tenth of the rate, no decay, twice the rate and no decay.
    names = ["head.kernel.weight", "backbone.stem.0.conv.weight", "neck.norm.weight", "head.tower.0.conv.offset.bias"]
    model = Tree({name: [5] for name in names})
    model.set_state_dict(dict(zip(names, start, strict=True)))
    optimizer = build_optimizer(model, constant(0.1), weight_decay=0.01, backbone_lr_factors=(0.1,))
    parameters = dict(model.named_parameters())
    for gradient, expected in zip(gradients, after, strict=True):
        for name, row in zip(names, gradient, strict=True):
            parameters[name].grad = paddle.to_tensor(row)
        optimizer.step()
        optimizer.clear_grad()
        # Numbers of about 1 in float32: one rounding.
        np.testing.assert_allclose(np.stack([parameters[name].numpy() for name in names]), expected, atol=2.4e-7)


def test_building_changes_nothing(tiny):
    model = build_model(load_config("solov2_r50_enhance_coco", {**tiny, "model.head.dcn_layers": [0]}))
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    schedule = WarmupPiecewise(base=0.5, warmup_steps=0, milestones=())
    optimizer = build_optimizer(model, schedule, backbone_lr_factors=LIGHT_FACTORS)
    assert optimizer.get_lr() == 0.5
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    state = optimizer_state(optimizer, model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.trainable}
    assert state.keys() == trained.keys() < before.keys()
    assert all(not value.any() and list(value.shape) == trained[name].shape for name, value in state.items())


def steps(model, optimizer, schedule, count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        model(paddle.to_tensor(rng.normal(size=(4, 3)).astype(np.float32))).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()


def trainer_parts():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    schedule = WarmupPiecewise(base=0.1, warmup_steps=5, milestones=(8,))
    return model, build_optimizer(model, schedule), schedule


def test_resume_is_bit_exact():
    model, optimizer, schedule = trainer_parts()
    steps(model, optimizer, schedule, 6, seed=0)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    velocities, position = optimizer_state(optimizer, model), schedule.state_dict()
    again, resumed, resumed_schedule = trainer_parts()
    again.set_state_dict(weights)
    load_optimizer_state(resumed, again, velocities)
    resumed_schedule.set_state_dict(position)
    # A state that was only just loaded can be saved again.
    assert all((optimizer_state(resumed, again)[name] == value).all() for name, value in velocities.items())
    steps(model, optimizer, schedule, 6, seed=1)
    steps(again, resumed, resumed_schedule, 6, seed=1)
    for name, value in model.state_dict().items():
        assert np.abs(value.numpy() - weights[name]).max() > 0
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy())


def test_states_that_do_not_fit():
    model, optimizer, schedule = trainer_parts()
    steps(model, optimizer, schedule, 3, seed=0)
    before = optimizer_state(optimizer, model)
    partial = {name: np.ones_like(value) for name, value in before.items() if name != "0.bias"}
    faults = {
        "missing 0.bias": partial,
        "unexpected 7.bias": {**partial, "0.bias": np.ones(5, np.float32), "7.bias": np.ones(5, np.float32)},
        r"0.bias is \[4\], the model has \[5\]": {**partial, "0.bias": np.ones(4, np.float32)},
    }
    for fault, state in faults.items():
        with pytest.raises(ValueError, match=fault):
            load_optimizer_state(optimizer, model, state)
    for name, value in optimizer_state(optimizer, model).items():
        np.testing.assert_array_equal(value, before[name])


def test_clipping():
    model = nn.Linear(2, 2)
    gradients = {"weight": np.array([[3.0, 0.0], [0.0, 0.0]], np.float32), "bias": np.array([0.0, 4.0], np.float32)}
    for bound, factor in ((10.0, 1.0), (5.0, 1.0), (2.5, 0.5)):
        model.weight.grad, model.bias.grad = (paddle.to_tensor(gradients[name]) for name in ("weight", "bias"))
        assert float(clip_gradients(model, bound)) == 5.0
        for name, parameter in model.named_parameters():
            np.testing.assert_array_equal(parameter.grad.numpy(), factor * gradients[name])
    model.bias.grad = paddle.to_tensor([np.inf, 0.0])
    assert not np.isfinite(float(clip_gradients(model, 1.0)))
