"""ImageJ ROIs, read by roifile and drawn again."""

import builtins
import io
import zipfile

import cv2
import numpy as np
import pytest
from blobs import noise
from found import three

from ppsolo.errors import PpsoloError
from ppsolo.results.instances import Instances


def test_roifile_reads_them(tmp_path):
    roifile = pytest.importorskip("roifile")
    masks = noise(5, (40, 50), seed=5, spread=2.0) > 0.5
    masks[0] = False
    masks[0, 3:9, 4:20] = True
    instances = Instances.from_masks(
        masks, scores=np.full(5, 0.5), labels=np.zeros(5, int), class_names=["cell/a"], category_ids=[1]
    )
    path = tmp_path / "rois.zip"
    path.write_bytes(instances.to_bytes("imagej"))
    rois = roifile.ImagejRoi.fromfile(path)
    assert [roi.name for roi in rois] == [f"{i:04d} cell-a 0.500" for i in range(1, 6)]
    assert rois[0].roitype == roifile.ROI_TYPE.TRACED and rois[1].composite
    for roi, mask in zip(rois, masks, strict=True):
        # Even-odd filling on a grid of twice the size tells the sides of every edge.
        rings = [np.rint(2 * ring).astype(np.int32) for ring in roi.coordinates(multi=True)] if roi.composite else None
        rings = [2 * roi.coordinates().astype(np.int32)] if rings is None else rings
        winding = np.zeros((81, 101), int)
        for ring in rings:
            filled = np.zeros((81, 101), np.uint8)
            border = np.zeros_like(filled)
            cv2.fillPoly(filled, [ring], 1)
            cv2.polylines(border, [ring], True, 1)
            winding += filled
        assert np.array_equal(winding[1::2, 1::2] % 2 == 1, mask)
        assert (roi.top, roi.left, roi.bottom, roi.right) == box(mask)


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def test_empty_masks_are_left_out():
    pytest.importorskip("roifile")
    assert len(zipfile.ZipFile(io.BytesIO(three().to_bytes("imagej"))).namelist()) == 2


def test_without_roifile_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "roifile":
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PpsoloError, match=r"pip install 'ppsolo\[formats\]'"):
        three().to_bytes("imagej")
