"""A model as a user names it: a configuration with weights, or an exported directory; opened, it is a predictor."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from ppsolo.checkpoint.download import Progress
from ppsolo.config import Config, Overrides, override_config
from ppsolo.data.tiles import Tiling
from ppsolo.deploy.directory import read_info
from ppsolo.errors import ConfigError
from ppsolo.interface import ENGINES, PRECISIONS
from ppsolo.pipeline import Pipeline, TiledPipeline

CONFIG_ENGINES = tuple(engine for engine in ENGINES if engine != "paddle")
EXPORT_ENGINES = tuple(engine for engine in ENGINES if engine != "dygraph")
SIDES = ("dygraph", "onnxruntime", "openvino", "openvino-bf16")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Which model answers, and in which runtime. Raises ConfigError for an engine or a precision that it cannot have.

    Attributes:
        config: the configuration. Of an export, the one in its directory, with a user's own data set in it.
        directory: an export; None for a configuration with weights.
        engine: the runtime: "dygraph", "onnxruntime" or "openvino" for a configuration, "paddle", "onnxruntime" or
            "openvino" for an export; "auto" chooses.
        device: "cpu" or "gpu", of an export. A configuration runs where Paddle runs.
        precision: "fp32"; "bf16" on a CPU that has it; "fp16" for exports on a GPU.
        tiling: predict every picture tile by tile; None: whole.
    """

    config: Config
    directory: Path | None = None
    engine: str = "auto"
    device: Literal["cpu", "gpu"] = "cpu"
    precision: str = "fp32"
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        engines = CONFIG_ENGINES if self.directory is None else EXPORT_ENGINES
        if self.engine not in engines:
            what = "a configuration" if self.directory is None else f"the export {self.directory}"
            raise ConfigError(f"engine is {self.engine!r}, {what} takes one of {', '.join(engines)}")
        if self.directory is not None:
            return
        if self.device != "cpu":
            raise ConfigError("--device is for exports: give --model_dir; a configuration runs where Paddle runs")
        if self.precision == "fp16":
            raise ConfigError("precision fp16 is for exports on a GPU: give --model_dir and --device gpu")
        if self.precision == "bf16" and self.engine not in ("auto", "openvino"):
            raise ConfigError(f"precision bf16 takes the engine openvino, not {self.engine}")

    @property
    def name(self) -> str:
        """What tables call it: the directory or the configuration, the engine and the precision where stated."""
        parts = [str(self.directory) if self.directory is not None else self.config.name]
        parts += [self.engine] if self.engine != "auto" else []
        parts += [self.precision] if self.precision != "fp32" else []
        return " ".join(parts)

    @property
    def needs_paddle(self) -> bool:
        """Whether Paddle must be installed: for a configuration, and for a Paddle export."""
        return self.directory is None or read_info(self.directory).format == "paddle"

    def open(
        self, *, threads: int | None = None, keep_memory: bool = True, progress: Progress | None = None
    ) -> Pipeline:
        """The predictor. Arguments and errors are the same as for `ppsolo.Predictor` and `ppsolo.deploy.load`."""
        predictor = self._open(threads=threads, keep_memory=keep_memory, progress=progress)
        return predictor if self.tiling is None else TiledPipeline(predictor, self.tiling)

    def _open(self, *, threads: int | None, keep_memory: bool, progress: Progress | None) -> Pipeline:
        options: dict[str, Any] = {"precision": self.precision, "threads": threads, "keep_memory": keep_memory}
        if self.directory is not None:
            from ppsolo.deploy.runtime import load

            engine: Any = None if self.engine == "auto" else self.engine
            return load(self.directory, engine=engine, device=self.device, **options).adapted(self.config)
        from ppsolo.predictor import Predictor

        engine = "openvino" if self.precision == "bf16" else self.engine
        return Predictor(self.config, engine=engine, progress=progress, **options)


def export_config(directory: str | os.PathLike[str], overrides: Overrides = ()) -> Config:
    """The configuration in an export's directory, with overrides of what an export leaves open.

    overrides: as for `load_config`, of the section `data` and of `postprocess.class_thresholds`.
    Raises ExportError, and ConfigError for an override of what is fixed in the export.
    """
    fixed = read_info(directory).config
    config = override_config(fixed, overrides)
    postprocess = dataclasses.replace(config.postprocess, class_thresholds=fixed.postprocess.class_thresholds)
    if dataclasses.replace(config, data=fixed.data, postprocess=postprocess) != fixed:
        raise ConfigError(
            f"{directory}: an export takes -o for data.* and postprocess.class_thresholds only; the rest is fixed: "
            "export again"
        )
    return config


def named_side(name: str, config: Config | None) -> ModelSource:
    """The source that a comparison names.

    name: one of SIDES, of the configuration, or an exported directory, after which "@ENGINE" and "@PRECISION" may
        follow: "output/r50@openvino@bf16".
    config: what SIDES compute; its data set is taken for exports too. None where there is no configuration.
    Raises ConfigError, ExportError.
    """
    if name in SIDES:
        if config is None:
            raise ConfigError(f"{name} is an engine of a configuration: add -c CONFIG, or give exported directories")
        engine, _, precision = name.partition("-")
        return ModelSource(config, engine=engine, precision=precision or "fp32")
    directory, *ways = name.split("@")
    if not Path(directory).is_dir():
        raise ConfigError(f"{directory}: none of {', '.join(SIDES)}, and no exported directory")
    engine, precision = "auto", "fp32"
    for way in ways:
        if way in PRECISIONS:
            precision = way
        else:
            engine = way
    own = export_config(directory)
    if config is not None:
        own = dataclasses.replace(own, data=config.data)
    return ModelSource(own, Path(directory), engine=engine, precision=precision)
