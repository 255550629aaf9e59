"""`ppsolo` and `python -m ppsolo`: the command line."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an import that is interrupted ends without a traceback

from ppsolo.cli import main

if __name__ == "__main__":
    sys.exit(main())
