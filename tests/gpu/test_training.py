"""Training on a GPU: one step and a short run in each precision, beside float32 on the CPU."""

import numpy as np
import paddle
import pytest
from gpus import needs_gpus

from ppsolo.build.training import build_dataset, build_loader, build_trainer
from ppsolo.config import load_config
from ppsolo.models.tf32 import tf32
from ppsolo.processes import ALONE

pytestmark = needs_gpus()


def trainer_of(training, level: str):
    config = load_config("solov2_r50_enhance_coco", {**training, "train.amp": level, "model.head.drop_block": False})
    dataset = build_dataset(config)
    return build_trainer(config, build_loader(config, [dataset[i] for i in range(len(dataset))]), ALONE)


def first_losses(training, level: str) -> np.ndarray:
    trainer = trainer_of(training, level)
    trainer.model.train()
    with tf32(allowed=False):
        return trainer.train_step([next(trainer.loader.epoch(0))]).numpy()


# float32: other kernels, through 20 layers; float16: 11 bits
@pytest.mark.parametrize(("level", "bound"), [("none", 1e-4), ("O1", 2e-2), ("O2", 2e-2)])
def test_one_step(training, level, bound):
    used = paddle.device.get_device()
    paddle.device.set_device("cpu")
    try:
        expected = first_losses(training, "none")
    finally:
        paddle.device.set_device(used)
    np.testing.assert_allclose(first_losses(training, level), expected, rtol=bound)


@pytest.mark.parametrize("level", ["none", "O1", "O2"])
def test_a_short_run_learns(training, level):
    trainer = trainer_of({**training, "train.epochs": 6, "train.schedule.milestones": [99]}, level)
    losses = []
    trainer.sinks = [type("Sink", (), {"log": lambda _, metrics, step: losses.append(metrics["train/loss"])})()]
    trainer.fit()
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < np.mean(losses[:4])
