"""Entries of a COCO results file."""

from typing import Any

from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.rle import mask_boxes_xywh
from ppsolo.text import json_text


def coco_entries(found: ImageResults) -> list[dict[str, Any]]:
    """Return a dict per instance: image_id, category_id, segmentation (compressed RLE, counts a str), score, bbox.

    In a tracked video also `track_id`; null for an instance without a number.
    """
    boxes = mask_boxes_xywh(found.rles)
    entries: list[dict[str, Any]] = [
        {
            "image_id": found.image_id,
            "category_id": found.category_ids[label],
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
            "score": float(score),
            "bbox": box.tolist(),
        }
        for label, rle, score, box in zip(found.labels, found.rles, found.scores, boxes, strict=True)
    ]
    if found.track_ids is not None:
        for entry, number in zip(entries, found.track_ids.tolist(), strict=True):
            entry["track_id"] = number if number > 0 else None
    return entries


def coco_json(found: ImageResults) -> bytes:
    """Return the entries as a JSON list; each has the image's name if it is known."""
    named = {"file_name": found.image_name} if found.image_name else {}
    lines = [json_text({**entry, **named}) for entry in coco_entries(found)]
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()
