"""PaddleDetection's folder for COCO, under the working directory."""

import dataclasses
import logging
from pathlib import Path

from ppsolo.schema import DataConfig

logger = logging.getLogger(__name__)

FOLDER = "dataset/coco"  # train2017, val2017 and annotations/instances_*.json are in it


def found_data(data: DataConfig) -> DataConfig:
    """Set `data.root` to FOLDER if it is the default and does not exist, and FOLDER has the file.

    >>> found_data(DataConfig(root="mine")).root
    'mine'
    """
    files = (data.train_annotations, data.val_annotations)
    if data.root != DataConfig().root or Path(data.root).exists():
        return data
    if not any(file and (Path(FOLDER) / file).is_file() for file in files):
        return data
    logger.info("%s: not there; the data set in %s takes its place", data.root, FOLDER)
    return dataclasses.replace(data, root=FOLDER)
