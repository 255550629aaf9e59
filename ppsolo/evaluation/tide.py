"""TIDE: which kinds of error cost AP50, computed by hotcoco."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ppsolo.atomic import temporary_folder
from ppsolo.evaluation.ground_truth import GroundTruth
from ppsolo.results.rle import Rle, mask_boxes_xywh

TIDE_KINDS = {
    "Cls": "right place, wrong class",
    "Loc": "right class, inexact outline",
    "Both": "wrong class and inexact outline",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "not found",
}


def tide(truth: GroundTruth, results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Say which of the six kinds of error cost AP50 (TIDE: Bolya et al., ECCV 2020, arXiv 2008.08115).

    Returns "ap50", and for each kind "lost" (how much AP50 would rise without these errors) and "count". hotcoco
    computes it; returns None if hotcoco is not installed.
    """
    if importlib.util.find_spec("hotcoco") is None or not results:
        return None
    import hotcoco

    with temporary_folder() as folder:
        annotations, found = folder / "annotations.json", folder / "results.json"
        annotations.write_text(json.dumps(_plain_truth(truth)), encoding="utf-8")
        found.write_text(json.dumps([_plain_result(truth, result) for result in results]), encoding="utf-8")
        known = hotcoco.COCO(str(annotations))
        evaluator = hotcoco.COCOeval(known, known.load_res(str(found)), "segm")
        evaluator.evaluate()
        errors = evaluator.tide_errors()
    lost, counts = errors["delta_ap"], errors["counts"]
    kinds = {name: {"lost": float(lost[name]), "count": int(counts[name])} for name in TIDE_KINDS}
    return {"ap50": float(errors["ap_base"]), "kinds": kinds}


def _plain_truth(truth: GroundTruth) -> dict[str, Any]:
    """Return the annotations with indices as ids: hotcoco refuses names, ids and outlines that our reader accepts."""
    images, annotations = [], []
    for image in range(len(truth.image_ids)):
        rows = truth.rows(image)
        rows = rows[truth.outlined[rows]]
        masks = truth.masks(rows)
        height, width = masks[0]["size"] if masks else (1, 1)
        images.append({"id": image + 1, "height": height, "width": width, "file_name": ""})
        for row, mask, box in zip(rows.tolist(), masks, mask_boxes_xywh(masks).tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": int(truth.category[row]) + 1}
            sizes = {"area": float(truth.area[row]), "bbox": box, "iscrowd": int(truth.crowd[row])}
            annotations.append({**entry, **sizes, "segmentation": _plain_mask(mask)})
    categories = [{"id": label + 1, "name": str(label)} for label in range(len(truth.category_ids))]
    return {"images": images, "annotations": annotations, "categories": categories}


def _plain_result(truth: GroundTruth, result: Mapping[str, Any]) -> dict[str, Any]:
    image = truth.image_index(result["image_id"])
    return {
        "image_id": 0 if image is None else image + 1,
        "category_id": truth.category_index(result["category_id"]) + 1,
        "segmentation": _plain_mask(result["segmentation"]),
        "score": result["score"],
    }


def _plain_mask(mask: Rle | Mapping[str, Any]) -> dict[str, Any]:
    counts = mask["counts"]
    return {"size": list(mask["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}
