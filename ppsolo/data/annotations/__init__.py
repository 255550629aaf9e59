"""Reads COCO annotation files: rules, packed table, findings, cache."""
