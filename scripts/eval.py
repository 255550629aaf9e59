"""Measure average precision on COCO annotations: the same as `ppsolo eval`."""

import sys

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
