"""GeoJSON in QuPath's convention: one detection per instance, in pixels."""

import uuid
from typing import Any

import numpy as np

from ppsolo.results.draw import instance_color
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.polygons import Part, mask_parts
from ppsolo.text import json_text, storable


def geojson_document(found: ImageResults) -> dict[str, Any]:
    """Return a FeatureCollection: a Polygon per instance, or a MultiPolygon if it has several parts, with holes.

    Coordinates are pixels of the image, exactly along the edges of pixels. Each feature is a "detection" with its
    class, the class's colour and, as a measurement, its score. Instances with an empty mask are left out.
    """
    features = []
    for i, (label, score, rle) in enumerate(zip(found.labels, found.scores, found.rles, strict=True)):
        shapes = [_coordinates(part) for part in mask_parts(rle)]
        if not shapes:
            continue
        single = len(shapes) == 1
        name = f"{storable(found.image_name)} {found.image_id} {i} {rle['counts']}"
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
                "geometry": {
                    "type": "Polygon" if single else "MultiPolygon",
                    "coordinates": shapes[0] if single else shapes,
                },
                "properties": {
                    "objectType": "detection",
                    "classification": {
                        "name": found.class_names[label],
                        "color": list(instance_color(int(label))),
                    },
                    "measurements": {"score": round(float(score), 6)},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def geojson_bytes(found: ImageResults) -> bytes:
    """Return the document as UTF-8."""
    return json_text(geojson_document(found)).encode()


def _coordinates(part: Part) -> list[list[list[int]]]:
    """Return the outer ring, then the holes, each closed."""
    return [np.concatenate([ring, ring[:1]]).tolist() for ring in (part.outer, *part.holes)]
