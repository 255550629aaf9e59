"""The structure of the package: short files and functions, typed signatures, no circle of imports."""

import re
import subprocess
import sys
from pathlib import Path

from script_files import load_script

SCRIPT = Path(__file__).parent.parent / "scripts" / "structure.py"
LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 60  # lines, the docstring and the signature included
# What one image in dygraph needs, from a checkpoint file to its instances.
MODULES, FUNCTIONS, FILES = 39, 60, 14


structure = load_script("structure")


def test_no_file_is_too_long():
    assert [size for size in structure.longest_files() if size.lines > LONGEST_FILE] == []


def test_no_function_is_too_long():
    assert [size for size in structure.longest_functions() if size.lines > LONGEST_FUNCTION] == []


def test_every_parameter_has_a_type_and_no_signature_is_open():
    assert structure.doubtful_signatures() == []


def test_no_modules_import_each_other_in_a_circle():
    assert structure.circle() == []


def test_the_documents_say_how_little_code_one_image_needs():
    root = SCRIPT.parent.parent
    for page, words in (
        ("README.md", f"{FUNCTIONS} functions in {FILES} files"),
        ("README.zh.md", f"{FILES} 个文件中的 {FUNCTIONS} 个函数"),
        ("CONTRIBUTING.md", f"{FUNCTIONS} functions in {FILES} files"),
        ("docs/architecture.md", f"{FUNCTIONS} functions in {FILES} files"),
    ):
        assert words in (root / page).read_text(encoding="utf-8"), page


def test_one_image_needs_little_code():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) modules loaded, (\d+) own functions run in (\d+) files", done.stdout)
    assert found is not None, done.stdout
    modules, functions, files = map(int, found.groups())
    assert modules <= MODULES and functions <= FUNCTIONS and files <= FILES, "scripts/structure.py --all names them"
