"""Compare the speed of predictors, exported directories and peers: the same as `ppsolo benchmark`."""

import sys

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
