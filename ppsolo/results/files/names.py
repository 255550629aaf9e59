"""The names of the formats that instances are written in. This file imports nothing, so that help texts are quick."""

# Name -> what it is, for help texts.
FORMAT_NAMES = {
    "coco": "COCO results with compressed run lengths",
    "labelme": "polygons for labelme",
    "yolo": "YOLO segmentation labels",
    "label_map": "a PNG of 8 or 16 bits with a value per instance",
    "masks": "a PNG per instance",
    "geojson": "polygons with holes for QuPath",
    "imagej": "ROIs for ImageJ's ROI Manager",
    "csv": "measures of each instance",
    "parquet": "measures of each instance, for many",
}
