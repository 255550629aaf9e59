"""The training loop: it learns, goes on exactly where it stopped, and says what is wrong."""

import dataclasses
import json
import logging
import random

import numpy as np
import paddle
import pytest

from ppsolo.build.training import build_dataset, build_loader, build_trainer
from ppsolo.config import load_config
from ppsolo.data.loader import TrainingBatch
from ppsolo.data.masks import CroppedMasks
from ppsolo.data.targets import collate_targets, make_targets
from ppsolo.errors import ConfigError, DatasetError, TrainingError
from ppsolo.models.losses import Losses, Targets
from ppsolo.processes import ALONE
from ppsolo.training.precision import Precision
from ppsolo.training.state import TrainingState
from ppsolo.training.trainer import AP, Trainer, seed_step


def trainer_of(training, **changes) -> Trainer:
    config = load_config(
        "solov2_r50_enhance_coco", {**training, **{k.replace("__", "."): v for k, v in changes.items()}}
    )
    dataset = build_dataset(config)
    return build_trainer(config, build_loader(config, [dataset[i] for i in range(len(dataset))]), ALONE)


class Recorder:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.metrics = []

    def log(self, metrics, step):
        self.metrics.append((step, dict(metrics)))

    def close(self):
        pass


def equal(one: TrainingState, other: TrainingState) -> bool:
    return (
        one.record == other.record
        and one.arrays.keys() == other.arrays.keys()
        and all(
            one.arrays[group].keys() == other.arrays[group].keys()
            and all(np.array_equal(value, other.arrays[group][name]) for name, value in arrays.items())
            for group, arrays in one.arrays.items()
        )
    )


@pytest.fixture(scope="module")
def uninterrupted(training):
    """Training states by step, one after each step of a run. The first one is the state before training."""
    trainer = trainer_of(training, train__checkpoint_steps=1)
    states = {0: trainer.state()}
    trainer.checkpoint = lambda trainer, best: states.update({trainer.step: trainer.state()})
    trainer.fit()
    return states


def test_the_loop_runs_and_the_weights_move(uninterrupted):
    assert sorted(uninterrupted) == list(range(9))
    first, last = uninterrupted[1].arrays, uninterrupted[8].arrays
    assert uninterrupted[8].record["epoch"] == 2 and uninterrupted[8].record["step_in_epoch"] == 0
    # The first step learns at rate 0: the warm-up begins there.
    names = [name for name in first["model"] if name.endswith("weight")]
    assert all(np.array_equal(first["model"][n], uninterrupted[0].arrays["model"][n]) for n in names)
    moved = [name for name in names if not np.array_equal(first["model"][name], last["model"][name])]
    assert set(last["optimizer"]) <= set(last["model"]) == set(last["ema"])
    assert set(moved) == {name for name in last["optimizer"] if name.endswith("weight")}


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(training, uninterrupted, step):
    """Stopped in the warm-up, inside an epoch, at its end, after a milestone; with EMA, DropBlock and clipping."""
    trainer = trainer_of(training)
    paddle.seed(12345)
    np.random.seed(54321)
    trainer.load_state(uninterrupted[step])
    assert equal(trainer.state(), uninterrupted[step])
    trainer.fit()
    assert equal(trainer.state(), uninterrupted[8])


def test_workers_do_not_change_the_run(training, uninterrupted):
    trainer = trainer_of(training, data__num_workers=2)
    try:
        trainer.fit()
    finally:
        trainer.loader.close()
    assert equal(trainer.state(), uninterrupted[8])


def test_accumulated_batches_are_one_large_batch(training):
    """This holds for any batches: one batch here has no mask to learn from."""
    plain = {
        "data__keep_empty": True,
        "model__head__drop_block": False,
        "model__backbone__freeze_norm": True,
        "train__augment__short_sides": [48],
        "train__augment__crop": "none",
    }
    velocities, losses = [], []
    for changes in ({"train__batch_size": 3}, {"train__accumulate": 3, "train__batch_size": 1}):
        trainer = trainer_of(training, **plain, **changes)
        records = list(trainer.loader.make_batch.records)
        first = int(trainer.loader.order(0).reshape(-1)[0])
        no_instances = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64), "outlines": ()}
        records[first] = dataclasses.replace(records[first], **no_instances)
        trainer.loader.make_batch = dataclasses.replace(trainer.loader.make_batch, records=records)
        trainer.model.train()
        losses.append(trainer.train_step(list(trainer.loader.epoch(0, stop=trainer.accumulate))).numpy())
        velocities.append(trainer.state().arrays["optimizer"])
    # float32 sums in another order
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for name, velocity in velocities[0].items():
        np.testing.assert_allclose(velocities[1][name], velocity, rtol=0, atol=1e-5 * np.abs(velocity).max())


def test_a_state_that_fits_in_part_only_is_refused(training, uninterrupted):
    state = uninterrupted[4]
    without_ema = trainer_of(training, train__ema_decay=None)
    with pytest.raises(TrainingError, match=r"averaged weights.*nothing is resumed in part"):
        without_ema.load_state(state)
    trainer = trainer_of(training)
    for group in ("model", "optimizer", "ema"):
        incomplete = {**state.arrays, group: dict(list(state.arrays[group].items())[1:])}
        with pytest.raises(TrainingError, match="nothing is resumed in part"):
            trainer.load_state(TrainingState(incomplete, state.record))
    with pytest.raises(TrainingError, match="nothing is resumed in part"):
        trainer.load_state(TrainingState(state.arrays, {k: v for k, v in state.record.items() if k != "epoch"}))


def break_losses(trainer: Trainer, *, steps: range) -> None:
    """Make the losses of these steps no numbers."""
    criterion = trainer.criterion

    def broken(raw, targets):
        losses = criterion(raw, targets)
        return Losses(*(loss * float("nan") for loss in losses)) if trainer.step in steps else losses

    trainer.criterion = broken


def ids_of(trainer: Trainer, step: int) -> str:
    records = trainer.loader.make_batch.records
    return ", ".join(str(records[i].image_id) for i in trainer.loader.order(0)[step])


def test_a_loss_that_is_no_number_stops_and_names_its_images(training):
    trainer = trainer_of(training)
    break_losses(trainer, steps=range(1, 2))
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    assert f"step 2 is not finite; its images: {ids_of(trainer, 1)};" in str(caught.value)


def test_nothing_is_written_after_such_a_step(training):
    """It is looked for before weights are written, though losses are read and logged more seldom."""
    trainer, written = trainer_of(training, train__checkpoint_steps=2, train__log_every=100), []
    trainer.checkpoint = lambda trainer, best: written.append(trainer.step)
    break_losses(trainer, steps=range(2, 3))
    with pytest.raises(TrainingError, match="step 3 is not finite"):
        trainer.fit()
    assert trainer.step == 4 and written == [2]


def test_such_weights_are_not_evaluated(training):
    trainer = trainer_of(training, train__log_every=100, model__backbone__frozen_stages=-1)
    trainer.evaluate = lambda: pytest.fail("evaluated")
    trainer.train_step([nan_batch(trainer)])
    trainer.train_one_epoch = lambda: None
    with pytest.raises(TrainingError, match="step 1 is not finite"):
        trainer.fit()


def test_a_step_passed_over_leaves_no_trace_in_running_statistics(training):
    """Norms take in what they see before anyone knows the loss."""
    trainer = trainer_of(training, train__non_finite="skip", model__backbone__frozen_stages=-1)
    trainer.model.train()
    before = trainer.state().arrays["model"]
    assert any(name.endswith("._mean") for name in before)
    trainer.train_step([nan_batch(trainer)])
    for name, value in trainer.state().arrays["model"].items():
        np.testing.assert_array_equal(value, before[name])
    trainer.train_step([next(trainer.loader.epoch(0))])
    assert all(np.isfinite(value).all() for value in trainer.published_weights().values())


def test_a_state_holds_the_losses_of_every_step(training):
    trainer = trainer_of(training, train__log_every=100)
    losses = trainer.train_step([next(trainer.loader.epoch(0))]).numpy()
    assert trainer.state().record["recent_losses"] == [losses.tolist()]


def nan_batch(trainer: Trainer) -> TrainingBatch:
    batch = next(trainer.loader.epoch(0))
    return batch._replace(images=batch.images * np.nan)


def test_a_step_reads_nothing_back(training, monkeypatch):
    trainer = trainer_of(training)
    batch = next(trainer.loader.epoch(0))
    trainer.model.train()
    for name in ("numpy", "item", "tolist", "__bool__", "__int__", "__float__", "__array__"):
        monkeypatch.setattr(paddle.Tensor, name, lambda *_, name=name, **__: pytest.fail(f"{name} of a tensor"))
    trainer.train_step([batch])


def test_images_that_are_no_numbers_stop_too_though_the_loss_may_be_one(training):
    trainer = trainer_of(training, model__backbone__frozen_stages=-1)
    trainer.train_step([nan_batch(trainer)])
    with pytest.raises(TrainingError) as caught:
        trainer.settle()
    assert ids_of(trainer, 0) in str(caught.value)


def test_such_steps_are_passed_over_on_request(training, caplog):
    trainer = trainer_of(training, train__non_finite="skip")
    break_losses(trainer, steps=range(1, 2))
    with caplog.at_level(logging.WARNING):
        trainer.fit()
    assert trainer.step == 8 and caplog.text.count("is skipped") == 1
    assert all(np.isfinite(value).all() for value in trainer.published_weights().values())


def test_ten_such_steps_in_a_row_always_stop(training):
    trainer = trainer_of(training, train__non_finite="skip", train__epochs=4)
    break_losses(trainer, steps=range(2, 99))
    with pytest.raises(TrainingError, match="nor were the 9 steps before"):
        trainer.fit()
    assert trainer.step == 11


class Overflowing(Precision):
    """Mixed precision as the loop sees it: finite losses, and gradients that are not finite in some steps."""

    def __init__(self, overflows: list[bool]):
        super().__init__("none")
        self.level, self.overflows = "O1", overflows

    def step(self, optimizer):
        overflow = self.overflows.pop(0) if self.overflows else True
        if not overflow:
            optimizer.step()
        return not overflow


def test_a_step_that_mixed_precision_skips_moves_nothing(training):
    trainer = trainer_of(training, model__backbone__frozen_stages=-1)
    trainer.precision = Overflowing([False, True, True, False])
    batches = trainer.loader.epoch(0)
    trainer.train_step([next(batches)])
    before, rate, averaged = trainer.state(), trainer.optimizer.get_lr(), trainer.ema.steps
    for _ in range(2):
        trainer.train_step([next(batches)])
    after = trainer.state()
    for group, arrays in before.arrays.items():
        for name, value in arrays.items():
            np.testing.assert_array_equal(after.arrays[group][name], value, err_msg=name)
    assert (trainer.optimizer.get_lr(), trainer.ema.steps) == (rate, averaged)
    assert after.record["skipped_in_all"] == 2
    trainer.train_step([next(batches)])
    assert trainer.ema.steps == averaged + 1 and trainer.optimizer.get_lr() > rate


def test_gradients_that_are_never_finite_stop(training):
    trainer = trainer_of(training, train__epochs=9)
    trainer.precision = Overflowing([])
    recorder = Recorder()
    trainer.sinks = [recorder]
    with pytest.raises(TrainingError, match=r"last 20 steps .* lower the learning rate, or set train\.amp=none"):
        trainer.fit()
    assert trainer.step == 19
    assert recorder.metrics[-1][1]["train/skipped_steps"] == 19 and "train/loss_scale" in recorder.metrics[-1][1]


def test_images_without_instances_train_every_parameter_without_nan(training, tmp_path, drawn):
    content = json.loads((drawn / "instances_train.json").read_text())
    content["annotations"] = content["annotations"][:1]
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    (tmp_path / "train").symlink_to(drawn / "train")
    trainer = trainer_of(training, data__root=str(tmp_path), data__keep_empty=True, train__optimizer__clip_norm=None)
    trainer.fit()
    assert all(np.isfinite(value).all() for value in trainer.published_weights().values())
    trainer.criterion(trainer.model(paddle.zeros([1, 3, 64, 64])), empty_targets(trainer)).total.backward()
    assert all(p.grad is not None for p in trainer.model.parameters() if not p.stop_gradient)


def empty_targets(trainer):
    nothing = make_targets(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64),
        CroppedMasks.from_array(np.zeros((0, 64, 64), np.uint8)),
        (64, 64),
        num_grids=trainer.loader.make_batch.num_grids,
        scale_ranges=trainer.loader.make_batch.scale_ranges,
    )
    return Targets.from_arrays(collate_targets([nothing]))


def scripted(trainer: Trainer, aps: list[float]) -> list[bool]:
    """Let evaluation answer `aps`; returns where the flags of all checkpoints will be."""
    answers, flags = iter(aps), []
    trainer.evaluate = lambda: {AP: next(answers)}
    trainer.checkpoint = lambda trainer, best: flags.append(best)
    return flags


def test_the_best_is_kept_and_patience_ends_training(training):
    changes = {"train__epochs": 9, "train__evaluate_every": 1, "train__schedule__warmup_steps": 0}
    trainer = trainer_of(training, **changes, train__patience=2)
    trainer.train_one_epoch = lambda: None
    flags = scripted(trainer, [0.1, 0.3, 0.2, 0.3, 0.9])
    trainer.fit()
    assert trainer.best_ap == 0.3 and trainer.epoch == 4
    assert flags == [True, False, True, False, False, False]


def test_evaluation_comes_every_so_many_epochs_and_at_the_end(training):
    trainer = trainer_of(training, train__epochs=5, train__evaluate_every=2)
    trainer.train_one_epoch = lambda: None
    seen = []
    trainer.evaluate = lambda: seen.append(trainer.epoch) or {AP: 0.0}
    trainer.fit()
    assert seen == [2, 4, 5]


def test_the_average_is_what_is_evaluated(training):
    trainer = trainer_of(training, train__epochs=1, train__evaluate_every=1)
    name = "head.category.bias"
    seen = []
    trainer.evaluate = lambda: seen.append(trainer.model.state_dict()[name].numpy()) or {AP: 0.0}
    trainer.fit()
    assert trainer.ema is not None
    np.testing.assert_array_equal(seen[0], trainer.ema.weights()[name])
    np.testing.assert_array_equal(seen[0], trainer.published_weights()[name])
    assert not np.array_equal(seen[0], trainer.model.state_dict()[name].numpy())


def test_metrics_are_means_since_the_last_record(training):
    every, third = trainer_of(training), trainer_of(training, train__log_every=3)
    sinks = [Recorder(), Recorder()]
    every.sinks, third.sinks = [sinks[0]], [sinks[1]]
    every.fit()
    third.fit()
    assert [step for step, _ in sinks[0].metrics] == list(range(1, 9))
    assert [step for step, _ in sinks[1].metrics] == [3, 6]
    losses = [metrics["train/loss"] for _, metrics in sinks[0].metrics]
    assert sinks[1].metrics[1][1]["train/loss"] == pytest.approx(
        np.mean(losses[3:6]), rel=1e-6
    )  # float32 against float64
    rates = [metrics["train/learning_rate"] for _, metrics in sinks[0].metrics]
    assert rates == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.001, 0.001, 0.001, 0.001, 0.001])  # of the step to come


def test_random_numbers_of_a_step_follow_from_three_numbers():
    def draw(*numbers):
        seed_step(*numbers)
        return random.random(), np.random.rand(), paddle.rand([1]).item()

    assert draw(0, 5, 1) == draw(0, 5, 1)
    assert len({draw(0, 5, 1), draw(1, 5, 1), draw(0, 6, 1), draw(0, 5, 2)}) == 4


def test_what_cannot_work_is_refused_at_the_start(training):
    with pytest.raises(TrainingError, match=r"lower train\.accumulate"):
        trainer_of(training, train__accumulate=5)
    with pytest.raises(DatasetError, match=r"lower train\.batch_size"):
        trainer_of(training, train__batch_size=10)
    with pytest.raises(ConfigError, match=r"train\.optimizer: backbone_lr_factors has 1 entries"):
        trainer_of(training, train__optimizer__backbone_lr_factors=[0.1])
    if not paddle.device.get_device().startswith("gpu"):
        with pytest.raises(ConfigError, match=r"set train\.amp=none"):
            trainer_of(training, train__amp="O1")


def test_overfitting_two_images_finds_their_instances(training):
    """The loss of a fixed batch falls to well below where it started: targets, losses and steps belong together."""
    fixed = {"train__augment__color": "none", "train__augment__crop": "none", "train__augment__short_sides": [48]}
    trainer = trainer_of(training, train__schedule__learning_rate=0.02, model__head__drop_block=False, **fixed)
    batch = next(trainer.loader.epoch(0))
    trainer.model.train()
    losses = []
    for trainer.step in range(30):
        losses.append(trainer.train_step([batch]).numpy())
    mask, category, _ = np.mean(losses[-5:], axis=0) / losses[0]
    assert mask < 0.9 and category < 0.7


def test_patience_counts_from_the_end_of_the_warm_up_and_says_that_it_ends(training, caplog):
    trainer = trainer_of(training, train__epochs=2, train__evaluate_every=1)
    trainer.epochs, trainer.evaluate_every, trainer.patience, trainer.patience_from = 9, 1, 2, 9
    trainer.evaluate = lambda: {AP: 0.0}
    with caplog.at_level(logging.INFO):
        trainer.fit()
    # The first evaluation is a gain from nothing, the second lies in the warm-up of 9 steps.
    assert (trainer.epoch, trainer.step) == (4, 16)
    assert "training ends after epoch 4 of 9: 2 evaluations gave no better AP" in caplog.text
