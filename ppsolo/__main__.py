"""`ppsolo` and `python -m ppsolo`: the command line."""

import importlib
import sys

early = importlib.import_module("_signal")  # the part of `signal` that is there at once
# An import that is interrupted ends without a traceback.
if early.getsignal(early.SIGINT) is early.default_int_handler:
    early.signal(early.SIGINT, early.SIG_DFL)
# Threads that numpy starts inherit the block. So SIGTERM reaches this thread alone, which keeps Paddle's trace away.
early.pthread_sigmask(early.SIG_BLOCK, [early.SIGTERM])

from ppsolo.cli import main  # noqa: E402

early.pthread_sigmask(early.SIG_UNBLOCK, [early.SIGTERM])

if __name__ == "__main__":
    sys.exit(main())
