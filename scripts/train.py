"""Train or fine-tune, alone or under `python -m paddle.distributed.launch`: the same as `ppsolo train`."""

import sys

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
