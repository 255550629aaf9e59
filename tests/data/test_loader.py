"""The training loader: a seed gives the same samples with any number of workers, and failures are reported."""

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppsolo.data.augment import Normalize, RandomCrop, RandomFlip, Resize
from ppsolo.data.coco import CocoDataset
from ppsolo.data.loader import BatchMaker, TrainingLoader
from ppsolo.data.synthetic import draw_dataset
from ppsolo.errors import DatasetError, ImageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, train=7, val=1, size=(40, 60))
    return folder


def maker(folder, *, seed: int = 0, keep_empty: bool = False) -> BatchMaker:
    dataset = CocoDataset(folder / "instances_train.json", folder / "train", keep_empty=keep_empty)
    transforms = (
        RandomCrop(drop_empty_masks=False),
        Resize((32, 48), 80, round_sides=True, box_convention="exclusive"),
        RandomFlip("exclusive"),
    )
    return BatchMaker(
        records=[dataset[index] for index in range(len(dataset))],
        transforms=transforms,
        normalize=Normalize(),
        num_grids=(8, 4),
        scale_ranges=((1.0, 24.0), (16.0, 2048.0)),
        sampling_radius=0.2,
        largest_side=81,
        seed=seed,
    )


def same(one, other) -> bool:
    pairs = zip(vars(one.targets).values(), vars(other.targets).values(), strict=True)
    arrays = [(one.images, other.images)]
    for a, b in pairs:
        arrays += zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return one.image_ids == other.image_ids and all(np.array_equal(a, b) for a, b in arrays)


def test_batches_are_padded_and_their_targets_made_at_that_size(folder):
    for batch in TrainingLoader(maker(folder), batch_size=2).epoch(0):
        count, channels, height, width = batch.images.shape
        assert (count, channels) == (2, 3) and batch.images.dtype == np.float32
        assert height % 32 == 0 and width % 32 == 0
        assert batch.targets.masks.shape[1:] == (height // 4, width // 4)
        assert len(batch.targets.masks) == len(np.unique(batch.targets.mask_index))
        # Some sample fills the batch but for the rounding.
        assert any(np.abs(image[:, :, width - 32 :]).sum() > 0 for image in batch.images)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(folder, workers):
    here = TrainingLoader(maker(folder), batch_size=2)
    there = TrainingLoader(maker(folder), batch_size=2, num_workers=workers)
    try:
        for epoch in (0, 1):
            batches = list(there.epoch(epoch))
            assert len(batches) == 3
            assert all(same(a, b) for a, b in zip(here.epoch(epoch), batches, strict=True))
    finally:
        there.close()


def test_the_seed_and_the_epoch_change_order_and_contents(folder):
    loader = TrainingLoader(maker(folder), batch_size=2)
    first, again, later = (next(loader.epoch(epoch)) for epoch in (0, 0, 1))
    other = next(TrainingLoader(maker(folder, seed=1), batch_size=2).epoch(0))
    assert same(first, again)
    assert not same(first, later) and not same(first, other)
    samples = [maker(folder)(epoch, [3]) for epoch in (0, 1, 2, 3)]
    assert any(not same(samples[0], sample) for sample in samples[1:])


def test_an_epoch_can_be_entered_in_the_middle(folder):
    loader = TrainingLoader(maker(folder), batch_size=2)
    whole, part = list(loader.epoch(5)), list(loader.epoch(5, start=1, stop=2))
    assert len(part) == 1 and same(whole[1], part[0])


def test_processes_share_out_what_one_would_take(folder):
    make_batch = maker(folder)
    alone = TrainingLoader(make_batch, batch_size=2).order(0)
    shares = [TrainingLoader(make_batch, batch_size=1, rank=rank, world_size=2).order(0) for rank in (0, 1)]
    assert np.array_equal(np.concatenate(shares, axis=1), alone)
    assert len(np.unique(alone)) == 6


def test_an_abandoned_epoch_leaves_nothing_behind(folder):
    loader = TrainingLoader(maker(folder), batch_size=1, num_workers=2)
    try:
        epoch = loader.epoch(0)
        next(epoch)
        epoch.close()
        fresh = TrainingLoader(maker(folder), batch_size=1)
        assert all(same(a, b) for a, b in zip(loader.epoch(1), fresh.epoch(1), strict=True))
    finally:
        loader.close()


def test_images_without_instances_are_kept_on_request(folder, tmp_path):
    content = json.loads((folder / "instances_train.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    (tmp_path / "train").symlink_to(folder / "train")
    assert len(maker(tmp_path).records) == 1
    everything = maker(tmp_path, keep_empty=True)
    batch = everything(0, [1, 2])
    assert len(everything.records) == 7
    assert batch.targets.masks.shape[0] == 0 and batch.targets.num_positive_cells.tolist() == [0, 0]


def test_too_few_images_are_refused(folder):
    with pytest.raises(DatasetError, match=r"7 images, but one step takes 8 \(4 in each of 2 processes\)"):
        TrainingLoader(maker(folder), batch_size=4, world_size=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(folder, tmp_path, workers):
    make_batch = maker(folder)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    records = [*make_batch.records[:-1], dataclasses.replace(make_batch.records[-1], path=broken)]
    loader = TrainingLoader(dataclasses.replace(make_batch, records=records), batch_size=7, num_workers=workers)
    try:
        with pytest.raises(ImageError, match=r"broken\.png"):
            list(loader.epoch(0))
    finally:
        loader.close()


def test_a_worker_that_dies_is_reported(folder):
    class Killer:
        def decide(self, sample, rng):
            os.kill(os.getpid(), signal.SIGKILL)

        def apply(self, sample, decision):
            return sample

    make_batch = dataclasses.replace(maker(folder), transforms=(Killer(),))
    loader = TrainingLoader(make_batch, batch_size=1, num_workers=1)
    try:
        with pytest.raises(DatasetError, match=r"data worker has ended \(exit code -9\)"):
            list(loader.epoch(0))
    finally:
        loader.close()


class Collected:
    """An object in a circle, as a tensor in an exception's frames is; it notes the process that frees it."""

    def __init__(self, log):
        self.circle, self.log = self, log

    def __del__(self):
        with self.log.open("a") as stream:
            stream.write(f"{os.getpid()}\n")


def test_a_worker_frees_nothing_from_before_the_fork(folder, tmp_path):
    class Collecting:
        def decide(self, sample, rng):
            gc.collect()

        def apply(self, sample, decision):
            return sample

    log = tmp_path / "freed.txt"
    loader = TrainingLoader(dataclasses.replace(maker(folder), transforms=(Collecting(),)), batch_size=1, num_workers=1)
    gc.collect()
    gc.disable()
    try:
        Collected(log)
        next(loader.epoch(0))
    finally:
        gc.enable()
        loader.close()
    gc.collect()
    assert log.read_text().split() == [str(os.getpid())]


def test_other_errors_of_a_worker_keep_their_trace(folder):
    class Faulty:
        def decide(self, sample, rng):
            raise ZeroDivisionError("by chance")

        def apply(self, sample, decision):
            return sample

    loader = TrainingLoader(dataclasses.replace(maker(folder), transforms=(Faulty(),)), batch_size=1, num_workers=1)
    try:
        with pytest.raises(RuntimeError, match=r"(?s)in decide.*ZeroDivisionError: by chance"):
            list(loader.epoch(0))
    finally:
        loader.close()


def test_workers_end_with_a_training_process_that_is_killed(folder):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_loader import TrainingLoader, maker\n"
        f"loader = TrainingLoader(maker(Path({str(folder)!r})), batch_size=1, num_workers=2)\n"
        "epoch = loader.epoch(0)\n"
        "next(epoch)\n"
        "print(*(worker._process.pid for worker in loader._workers._workers), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The pipe of the standard output is open until the last process that has it is gone.
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL and len(done.stdout.split()) == 2
