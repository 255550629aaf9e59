"""Write a model for Paddle Inference or onnxruntime, and verify it: the same as `ppsolo export`."""

import sys

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
