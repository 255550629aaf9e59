"""Predict on images, a directory, a glob pattern or a video: the same as `ppsolo infer`."""

import sys

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
