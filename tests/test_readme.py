"""The README's snippets run, on a tiny system, and its commands are understood."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import ppsolo
from ppsolo import cli
from ppsolo.build import network as build
from ppsolo.data.images import write_image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The arguments of every command of ours, without what starts it."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        line = re.sub(r".*&& \S*bin/(?=ppsolo)", "", line)
        script = re.match(r"python (?:-m paddle.distributed.launch (?:--nproc_per_node \d+ )?)?scripts/(\w+)\.py", line)
        if script and "from ppsolo.cli import main" in (ROOT / "scripts" / f"{script[1]}.py").read_text():
            line = f"ppsolo {script[1]}{line[script.end() :]}"
        if line.startswith("ppsolo "):
            found.append(shlex.split(line, comments=True)[1:])
    return found


def test_there_is_something_to_try():
    assert {command[0] for command in commands()} >= {
        "infer",
        "import-data",
        "train",
        "eval",
        "export",
        "serve",
        "demo",
    }


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "docs/first-hour.md"])
def test_the_install_has_what_the_commands_need(page):
    """An export in ONNX is verified by onnxruntime, and the service is an extra."""
    text = (ROOT / page).read_text(encoding="utf-8")
    extras = re.findall(r"pip install '\.\[(cpu,openvino[\w,]*)\]'", text)[0]
    needed = {"--format onnx": "onnx", "ppsolo serve": "serve"}
    assert {extra for words, extra in needed.items() if words in text} <= set(extras.split(","))


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_understood(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = cli.parser().parse_args(arguments)
    if (
        getattr(options, "override", None) is not None
        and options.config
        and not options.config.startswith(("output/", "data/"))
    ):
        ppsolo.load_config(options.config, options.override)


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_every_snippet_runs(name, tmp_path, monkeypatch, tiny):
    paddle.seed(0)
    config = ppsolo.load_config("solov2_r50_fpn_3x", {**tiny, "num_classes": 80})
    model = build.build_model(config)
    paddle.nn.initializer.Normal(0.0, 0.6)(model.head.category.weight)
    predictor = ppsolo.Predictor(config, model=model)
    write_image(tmp_path / "street.jpg", np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    monkeypatch.setattr(ppsolo.Predictor, "from_pretrained", lambda name, **options: predictor)
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python", (ROOT / name).read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    exec(snippet, found)
    assert len(found["instances"]) > 0 and found["instances"].scores.min() >= 0.5
    assert ppsolo.read_image("found.png").shape == (60, 90, 3)


def test_the_readme_is_short_and_the_chinese_page_has_its_blocks():
    assert len(README.splitlines()) <= 150
    chinese = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    for language in ("sh", "python"):
        assert blocks(language, chinese) == blocks(language)
    systems = r"^\| `solov2_\w+` \| \w.*$"
    assert re.findall(systems, README, re.MULTILINE)[:9] == re.findall(systems, chinese, re.MULTILINE)
