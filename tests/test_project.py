"""The files for contributors are read by their tools, and run what .ci/run runs."""

import ast
import importlib.metadata
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
CI = (ROOT / ".ci" / "run").read_text()


def hooks() -> list[dict]:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    return repository["hooks"]


def test_the_public_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert workflow["permissions"] == {"contents": "read"}


def test_hooks_are_commands_of_ci():
    for hook in hooks():
        words = shlex.split(hook["entry"])
        if words[0] != "python":
            assert f".venv/bin/{hook['entry']} " in CI
        else:
            assert all((ROOT / word).is_file() for word in words if word.startswith("tests/"))


def test_what_ci_leaves_out_for_the_older_paddle_exists():
    (names,) = re.findall(r"same_on_both=\(([^)]*)\)", CI)
    assert len(names.split()) > 5
    assert [name for name in names.split() if not (ROOT / name).exists()] == []


def test_hooks_look_at_files_that_exist():
    files = [str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.py"), *(ROOT / "ppsolo").rglob("*.py")]]
    for hook in hooks():
        assert any(re.search(hook.get("files", ""), file) for file in files)


def with_what_they_need(packages: Iterable[str]) -> set[str]:
    """Packages and all that they require, by what is installed here; extras left out."""
    found, todo = set(), list(packages)
    while todo:
        name = re.split(r"[^\w.-]", todo.pop())[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            required = (importlib.metadata.requires(name) or []) if installed(name) else []
            todo += [one for one in required if "extra ==" not in one]
    return found


def installed(name: str) -> bool:
    return any(True for _ in importlib.metadata.distributions(name=name))


def test_the_install_for_a_cpu_brings_few_packages_of_our_choosing():
    text = (ROOT / "setup.py").read_text()
    required = re.search(r"install_requires=(\[.*?\])", text, re.DOTALL)
    extra = re.search(r'"cpu": (\[.*?\])', text, re.DOTALL)
    assert required and extra
    names = [re.split(r"[<>=; ]", one)[0] for one in ast.literal_eval(required[1]) + ast.literal_eval(extra[1])]
    assert set(names) == {
        *("paddlepaddle", "visualdl", "matplotlib"),
        *("numpy", "msgspec", "opencv-python", "pycocotools", "pyyaml", "threadpoolctl"),
    }
    theirs = with_what_they_need(["paddlepaddle", "visualdl"])
    ours = with_what_they_need(names) - theirs
    assert len(ours | set(names)) <= 12, sorted(ours)


def test_templates_name_what_they_are_for():
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    templates = sorted(folder.glob("*.md"))
    assert [path.stem for path in templates] == ["fault", "wish"]
    for path in templates:
        head = yaml.safe_load(path.read_text().split("---\n")[1])
        assert head["name"] and head["about"]
    assert isinstance(yaml.safe_load((folder / "config.yml").read_text()), dict)
    assert "CHANGELOG.md" in (ROOT / ".github" / "pull_request_template.md").read_text()
