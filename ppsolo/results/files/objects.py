"""Objects of other libraries: a pandas data frame, supervision's detections."""

from typing import TYPE_CHECKING

import numpy as np

from ppsolo.errors import PpsoloError
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.files.measures import measures
from ppsolo.results.rle import decode_masks, mask_boxes

if TYPE_CHECKING:
    import pandas
    import supervision


def data_frame(found: ImageResults) -> "pandas.DataFrame":
    """Return the measurements of each instance. Raises PpsoloError without pandas."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise PpsoloError("a data frame needs the package pandas: pip install 'ppsolo[formats]'") from None
    return pandas.DataFrame(measures(found))


def detections(found: ImageResults) -> "supervision.Detections":
    """Return boxes, masks, scores, labels and class names. Raises PpsoloError without supervision."""
    try:
        import supervision
    except ModuleNotFoundError:
        raise PpsoloError("Detections need the package supervision: pip install 'ppsolo[formats]'") from None
    return supervision.Detections(
        xyxy=mask_boxes(found.rles),
        mask=decode_masks(found.rles, found.size).astype(bool),
        confidence=found.scores.copy(),
        class_id=found.labels.copy(),
        data={"class_name": np.array(found.names, dtype=str)},
    )
