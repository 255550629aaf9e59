"""The one reader of COCO annotation files: rules, packed table, findings, cache."""
