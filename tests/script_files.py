"""The files of `scripts/` as modules for tests."""

import importlib
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load_script(name: str) -> Any:
    """Import a file of `scripts/` by its name without `.py`; like a script that is run, it finds its neighbours."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    return importlib.import_module(name)
