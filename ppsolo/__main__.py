"""`ppsolo` and `python -m ppsolo`: the command line."""

import importlib
import sys

# An import that is interrupted ends without a traceback. `_signal` is the part of `signal` that is there at once.
if (early := importlib.import_module("_signal")).getsignal(early.SIGINT) is early.default_int_handler:
    early.signal(early.SIGINT, early.SIG_DFL)

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main())
