"""The flags of PaddleDetection's tools: each works, or is refused in one line with ppsolo's counterpart."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppsolo.cli.shared import say_note
from ppsolo.config import find_config, import_theirs, parse_yaml
from ppsolo.data.tiles import MOST_OVERLAP, largest_overlap
from ppsolo.errors import ConfigError
from ppsolo.legacy.yaml_files import is_paddledetection

SLIM = "compress with `ppsolo export`: --format onnx, or a runtime's own precision (load(..., precision='fp16'))"
PROFILER = "use `ppsolo benchmark`, or the profiler of Paddle around `ppsolo.train`"
NMS = "Matrix NMS joins instances; change postprocess.nms_kernel or postprocess.nms_sigma with -o"
PROPOSALS = "SOLOv2 has no proposals; omit it"
# (tool, flag) -> ppsolo's counterpart. Every flag takes one value or none.
REFUSED: dict[str, dict[str, str]] = {
    "train": {
        "--slim_config": SLIM,
        "--use_wandb": "losses are in the run's log.jsonl and visualdl/; send log.jsonl to W&B with its own client",
        "--save_prediction_only": "use `ppsolo eval --save_prediction_only` after training",
        "--profiler_options": PROFILER,
        "--is_profiler": PROFILER,
        "--profiler_path": PROFILER,
        "--save_proposals": PROPOSALS,
        "--proposals_path": PROPOSALS,
        "--to_static": "training runs in dygraph; `ppsolo export` writes the static graph",
        "--loss_scale": "mixed precision adapts its loss scale automatically",
        "--output_eval": "use `ppsolo eval --output_eval` after training",
    },
    "eval": {
        "--slim_config": SLIM,
        "--bias": "boxes come from the masks; omit it",
        "--amp": "evaluation computes in float32; export, and load with precision='fp16' or 'bf16'",
        "--combine_method": NMS,
        "--match_threshold": NMS,
        "--match_metric": NMS,
    },
    "infer": {
        "--slim_config": SLIM,
        "--vdl_log_dir": "drawings are files in --output_dir; VisualDL only shows training",
        "--rtn_im_file": "results always name their picture; omit it",
        "--combine_method": NMS,
        "--match_threshold": NMS,
        "--match_metric": NMS,
    },
    "export": {
        "--slim_config": SLIM,
        "--export_serving_model": "use `ppsolo serve`",
        "--for_fd": "ppsolo has no export for FastDeploy; use `ppsolo export --format onnx`",
    },
}


class _Refusal(argparse.Action):
    """A flag that is refused with any value except "False", which asks for nothing."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if isinstance(values, str) and values.lower() in ("false", "0"):
            return
        refused = getattr(namespace, "refused", None) or []
        namespace.refused = [*refused, f"{option_string} is a flag of PaddleDetection: {self.const}"]


def add_refused_flags(command: argparse.ArgumentParser, tool: str) -> None:
    """Add the flags of a tool that ppsolo refuses; the help hides them."""
    for flag, instead in REFUSED[tool].items():
        command.add_argument(flag, action=_Refusal, nargs="?", const=instead, help=argparse.SUPPRESS, dest="refused")


def truth(text: str) -> bool:
    """Parse True or False. Raises argparse.ArgumentTypeError."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"give True or False, not {text!r}")
    return values[text.lower()]


def add_switch(command: argparse.ArgumentParser, flag: str, *, default: bool = False, help: str) -> None:
    """Add a flag that stands alone, or before True or False, as in PaddleDetection."""
    command.add_argument(flag, type=truth, nargs="?", const=True, default=default, metavar="True|False", help=help)


def add_slices(command: argparse.ArgumentParser) -> None:
    """Add PaddleDetection's flags for large pictures."""
    hidden = argparse.SUPPRESS
    command.add_argument(
        "--slice_infer", action="store_true", help="predict in tiles like --tile, with PaddleDetection's flags"
    )
    command.add_argument("--slice_size", type=int, nargs="+", default=[640, 640], metavar="N", help=hidden)
    command.add_argument("--overlap_ratio", type=float, nargs="+", default=[0.25, 0.25], metavar="R", help=hidden)


def tile_of_slices(options: argparse.Namespace) -> tuple[int, int]:
    """Convert --slice_size and --overlap_ratio to --tile and --overlap. Raises ConfigError."""
    size, ratio = set(options.slice_size), set(options.overlap_ratio)
    if len(size) > 1 or len(ratio) > 1:
        raise ConfigError(
            "--slice_size and --overlap_ratio: tiles are squares, give one number, or use --tile and --overlap"
        )
    tile, share = size.pop(), ratio.pop()
    if not 0 <= share <= MOST_OVERLAP:
        raise ConfigError(
            f"--overlap_ratio is {share:g}: give a number from 0 to {MOST_OVERLAP:g}, a share of the tile"
        )
    return tile, min(round(tile * share), largest_overlap(tile))


def prepare_options(options: argparse.Namespace) -> None:
    """Refuse flags without counterpart, list differences of a PaddleDetection configuration, apply --sha256.

    `-o use_gpu=false`, a key of PaddleDetection, hides the GPUs from Paddle, which is not imported yet.
    Raises ConfigError.
    """
    if refused := getattr(options, "refused", None):
        raise ConfigError(refused[0])
    overrides: list[str] = getattr(options, "override", None) or []
    if (digest := getattr(options, "sha256", None)) is not None:
        address = next((text[len("weights=") :] for text in reversed(overrides) if text.startswith("weights=")), None)
        if address is None:
            raise ConfigError("--sha256 needs the address: add -o weights=https://...")
        from ppsolo.checkpoint.sources import with_checksum

        overrides.append(f"weights={with_checksum(address, digest)}")
    if not isinstance(config := getattr(options, "config", None), str) or not hasattr(options, "override"):
        return
    if options.run.__module__.endswith("import_config"):
        return
    try:
        file = find_config(Path(config))
    except ConfigError:
        return  # the command itself reports it
    if not is_paddledetection(file):
        return
    for text in overrides:
        key, _, value = text.partition("=")
        if key.strip() == "use_gpu" and parse_yaml(value, f"-o {text}") is False:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for note in import_theirs(file, overrides)[1]:
        say_note(str(note))
