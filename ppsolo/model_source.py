"""A model as a user names it: a configuration with weights, or an exported directory; `open` gives a predictor."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ppsolo.config import Config, Overrides, override_config
from ppsolo.data.tiles import Tiling
from ppsolo.deploy.directory import ExportDirectory, read_directory
from ppsolo.errors import ConfigError
from ppsolo.interface import ENGINES, PRECISIONS
from ppsolo.pipeline import Pipeline, TiledPipeline
from ppsolo.progress import Progress

CONFIG_ENGINES = tuple(engine for engine in ENGINES if engine != "paddle")
EXPORT_ENGINES = tuple(engine for engine in ENGINES if engine != "dygraph")
SIDES = ("dygraph", "onnxruntime", "openvino", "openvino-bf16")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model and its runtime. Raises ConfigError for an engine or a precision that the model does not support.

    Attributes:
        config: the configuration. For an export, that of its directory, with the user's own data set.
        export: an exported directory; None for a configuration with weights.
        engine: the runtime: "dygraph", "onnxruntime" or "openvino" for a configuration, "paddle", "onnxruntime" or
            "openvino" for an export; "auto" chooses.
        device: "cpu" or "gpu", for an export. A configuration runs on Paddle's device.
        precision: "fp32"; "bf16" on a CPU with bf16; "fp16" for exports on a GPU.
        tiling: predict every picture tile by tile; None: whole.
    """

    config: Config
    export: ExportDirectory | None = None
    engine: str = "auto"
    device: Literal["cpu", "gpu"] = "cpu"
    precision: str = "fp32"
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        engines = CONFIG_ENGINES if self.export is None else EXPORT_ENGINES
        if self.engine not in engines:
            what = "a configuration" if self.export is None else f"the export {self.export.path}"
            raise ConfigError(f"engine is {self.engine!r}, but {what} takes one of {', '.join(engines)}")
        if self.export is not None:
            return
        if self.device != "cpu":
            raise ConfigError("--device is for exports: give --model_dir; a configuration runs on Paddle's device")
        if self.precision == "fp16":
            raise ConfigError("precision fp16 is for exports on a GPU: give --model_dir and --device gpu")
        if self.precision == "bf16" and self.engine not in ("auto", "openvino"):
            raise ConfigError(f"precision bf16 needs the engine openvino, not {self.engine}")

    @property
    def name(self) -> str:
        """Its name in tables: the directory or configuration, with engine and precision if stated."""
        parts = [str(self.export.path) if self.export is not None else self.config.name]
        parts += [self.engine] if self.engine != "auto" else []
        parts += [self.precision] if self.precision != "fp32" else []
        return " ".join(parts)

    @property
    def needs_paddle(self) -> bool:
        """Whether Paddle must be installed: for a configuration and for a Paddle export."""
        return self.export is None or self.export.info.format == "paddle"

    def open(
        self, *, threads: int | None = None, keep_memory: bool = True, progress: Progress | None = None
    ) -> Pipeline:
        """Return the predictor. Arguments and errors are those of `ppsolo.Predictor` and `ppsolo.deploy.load`."""
        predictor = self._open(threads=threads, keep_memory=keep_memory, progress=progress)
        return predictor if self.tiling is None else TiledPipeline(predictor, self.tiling)

    def _open(self, *, threads: int | None, keep_memory: bool, progress: Progress | None) -> Pipeline:
        options: dict[str, Any] = {"precision": self.precision, "threads": threads, "keep_memory": keep_memory}
        if self.export is not None:
            from ppsolo.deploy.runtime import load

            engine: Any = None if self.engine == "auto" else self.engine
            return load(self.export, engine=engine, device=self.device, **options).adapted(self.config)
        from ppsolo.predictor import Predictor

        engine = "openvino" if self.precision == "bf16" else self.engine
        return Predictor(self.config, engine=engine, progress=progress, **options)


def export_config(export: ExportDirectory, overrides: Overrides = ()) -> Config:
    """Return the configuration of an export, with overrides of the keys that an export leaves open.

    overrides: as for `load_config`, for the section `data` and `postprocess.class_thresholds`.
    Raises ConfigError for an override of a key that the export fixes.
    """
    fixed = export.info.config
    config = override_config(fixed, overrides)
    postprocess = dataclasses.replace(config.postprocess, class_thresholds=fixed.postprocess.class_thresholds)
    if dataclasses.replace(config, data=fixed.data, postprocess=postprocess) != fixed:
        raise ConfigError(
            f"{export.path}: an export takes -o only for data.* and postprocess.class_thresholds; the rest is fixed: "
            "export again"
        )
    return config


def named_side(name: str, config: Config | None, overrides: Overrides = ()) -> ModelSource:
    """Return the source that a side of a comparison names.

    name: one of SIDES, for the configuration, or an exported directory. "@ENGINE" and "@PRECISION" may follow the
        latter: "output/r50@openvino@bf16".
    config: the configuration of SIDES; exports use its data set too. None: there is no configuration.
    overrides: without a configuration, changes of an export, see `export_config`.
    Raises ConfigError, ExportError.
    """
    if name in SIDES:
        if config is None:
            raise ConfigError(f"{name} is an engine for a configuration: add -c CONFIG, or give exported directories")
        engine, _, precision = name.partition("-")
        return ModelSource(config, engine=engine, precision=precision or "fp32")
    directory, *ways = name.split("@")
    if not Path(directory).is_dir():
        raise ConfigError(f"{directory}: neither one of {', '.join(SIDES)} nor an exported directory")
    engine, precision = "auto", "fp32"
    for way in ways:
        if way in PRECISIONS:
            precision = way
        else:
            engine = way
    export = read_directory(directory)
    if config is None:
        own = export_config(export, overrides)
    else:
        own = dataclasses.replace(export.info.config, data=config.data)
    return ModelSource(own, export, engine=engine, precision=precision)
