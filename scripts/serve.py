"""Start the HTTP service: the same as `ppsolo serve`."""

import sys

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
