"""The names of the output formats. This file imports nothing, so help texts are quick."""

# Name -> description, for help texts.
FORMAT_NAMES = {
    "coco": "COCO results with compressed run lengths",
    "labelme": "polygons for labelme",
    "yolo": "YOLO segmentation labels",
    "label_map": "a PNG of 8 or 16 bits with a value per instance",
    "masks": "a PNG per instance",
    "geojson": "polygons with holes for QuPath",
    "imagej": "ROIs for ImageJ's ROI Manager",
    "csv": "measurements of each instance",
    "parquet": "measurements of each instance, for large runs",
}
