"""Prediction inside Ray Data: a class for `map_batches`, with one predictor per actor."""

import json
import os
from typing import Any

import numpy as np

from ppsolo.bulk.parts import entries_of
from ppsolo.errors import ConfigError, ImageError


class BatchPredictor:
    """Predicts on the rows of a batch; each actor makes one.

    Rows have the column "path", a picture's path, or "image", a uint8 [H, W, 3] RGB array. The result has the columns
    "instances", JSON text of a list of COCO results, and "error", "" or the reason why a picture could not be read.
    Other columns of the batch are kept, except "image".

    Example, with two actors of one core each:

        import ray
        from ppsolo.bulk import BatchPredictor

        rows = ray.data.from_items([{"path": path} for path in paths])
        found = rows.map_batches(
            BatchPredictor,
            fn_constructor_args=["output/r50_onnx"],
            batch_size=8,
            concurrency=2,
            num_cpus=1,
        )
        found.write_parquet("output/found")
    """

    def __init__(self, model: str | os.PathLike[str], *, threads: int = 1):
        """model: an exported directory, a run's directory, or a published name. threads: CPU threads of the network."""
        from ppsolo.api import load

        if os.path.isdir(model):
            self._predictor = load(model, threads=threads, keep_memory=False)
        else:
            from ppsolo.predictor import Predictor

            self._predictor = Predictor.from_pretrained(os.fspath(model), threads=threads, keep_memory=False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """batch: columns as numpy arrays, from Ray Data."""
        names = batch.get("path", batch.get("image"))
        if names is None:
            raise ConfigError(f"a batch has the columns {', '.join(batch)}: name one of them path or image")
        found, errors = [], []
        for index, source in enumerate(names):
            picture = np.asarray(source) if "path" not in batch else str(source)
            try:
                instances = self._predictor(self._predictor.read(picture))
            except ImageError as error:
                found.append("[]")
                errors.append(str(error))
                continue
            name = str(batch["path"][index]) if "path" in batch else ""
            found.append(json.dumps(entries_of(instances, image_id=index, file_name=name)))
            errors.append("")
        kept = {name: values for name, values in batch.items() if name != "image"}
        return {**kept, "instances": np.array(found, dtype=object), "error": np.array(errors, dtype=object)}
