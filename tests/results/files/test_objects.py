"""Objects of other libraries."""

import numpy as np
import pytest
from found import masks, three


def test_supervision_takes_them():
    supervision = pytest.importorskip("supervision")
    detections = three().to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 3
    assert np.array_equal(detections.mask, masks())
    assert detections.area.tolist() == [18, 25, 0]
    assert list(detections["class_name"]) == ["person", "Würstchen", "person"]
    assert detections[detections.confidence > 0.4].class_id.tolist() == [0, 2]
    assert len(three()[:0].to_supervision()) == 0
    image = supervision.MaskAnnotator().annotate(np.zeros((12, 20, 3), np.uint8), detections)
    assert image.any()
