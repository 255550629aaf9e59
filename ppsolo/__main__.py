"""`python -m ppsolo`: the command line."""

import sys

from ppsolo.cli import main

sys.exit(main())
