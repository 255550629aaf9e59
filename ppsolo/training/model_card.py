"""The model card of a run: its data, its settings, and its quality."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppsolo.schema import Config
from ppsolo.text import counted
from ppsolo.version import __version__

LOSSES = ("loss", "loss_mask", "loss_category")
MOST_ROWS = 10  # of the table of losses
LARGEST_READ = 64_000_000  # bytes


def model_card(config: Config, *, images: int, instances: int, log_file: Path, licenses: Sequence[str] = ()) -> str:
    """Return the card as Markdown. images, instances: of the training set. log_file: the run's log.jsonl.

    licenses: those that the annotation file names. AP ranges from 0 to 100.
    """
    records = [json.loads(line) for line in log_file.read_text(encoding="utf-8").splitlines()]
    losses = [record for record in records if "train/loss" in record]
    evaluations = [record for record in records if "val/segm_AP" in record]
    data, train = config.data, config.train
    start = config.weights or config.pretrained_backbone or "random weights"
    names = ", ".join(config.class_names)
    done = records[-1]["step"] if records else 0
    lines = [
        f"# {config.name}",
        "",
        f"A SOLOv2 model for instance segmentation, trained with ppsolo {__version__}.",
        "",
        "## Data",
        "",
        f"- Training: `{data.train_annotations}`, {counted(images, 'image')} with {counted(instances, 'instance')}",
        f"- Validation: {f'`{data.val_annotations}`' if data.val_annotations else 'none'}",
        f"- Classes ({config.num_classes}): {names}",
        f"- Licences that the annotation file names: {', '.join(licenses) or 'none'}",
        "",
        "## Training",
        "",
        f"- Started from: {start}",
        f"- Backbone: {config.model.backbone.type}; input: short side {config.preprocess.short_side} pixels",
        f"- {counted(train.epochs, 'epoch')} planned, {counted(done, 'step')} done, seed {train.seed}",
        "- Everything else: `config.yml` of the run",
        "",
        "## Evaluation",
        "",
        *_evaluation(evaluations),
        "",
        "## Loss",
        "",
        *_table(("step", *LOSSES), [_loss_row(record) for record in _few(losses)]),
        "",
        "## Limits",
        "",
        "The model knows the classes above, in pictures like those it was trained on. Measure it on your own pictures",
        "before you rely on it.",
    ]
    return "\n".join(lines) + "\n"


def read_licenses(annotations: Path) -> list[str]:
    """Return the names of the licences in a COCO file; none for a very large file, where reading takes a minute."""
    if annotations.stat().st_size > LARGEST_READ:
        return []
    try:
        entries = json.loads(annotations.read_bytes()).get("licenses", [])
    except (AttributeError, ValueError):  # for example not UTF-8
        return []
    entries = entries if isinstance(entries, list) else []
    return [str(entry.get("name") or entry.get("url")) for entry in entries if isinstance(entry, dict)]


def _evaluation(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    if not evaluations:
        return ["It was not evaluated."]
    columns = [name for name in evaluations[0] if name.startswith("val/")]
    best = max(evaluations, key=lambda record: record["val/segm_AP"])
    rows = [[record["step"], *(f"{100 * record[name]:.1f}" for name in columns)] for record in _few(evaluations)]
    said = f"Best mask AP: {100 * best['val/segm_AP']:.1f}, after {counted(best['step'], 'step')} (`best.pdparams`)."
    return [said, "", *_table(("step", *(name.removeprefix("val/") for name in columns)), rows)]


def _loss_row(record: Mapping[str, Any]) -> list[Any]:
    return [record["step"], *(f"{record[f'train/{name}']:.3f}" for name in LOSSES)]


def _few(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose at most MOST_ROWS records, evenly spread, with the last one."""
    count = min(MOST_ROWS, len(records))
    return [records[(i + 1) * len(records) // count - 1] for i in range(count)]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines] if rows else ["Nothing was logged."]
