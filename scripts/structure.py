"""Measures the structure of the package: sizes, import circles, signatures, and the code used by one prediction."""

import argparse
import ast
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import ppsolo

PACKAGE = Path(ppsolo.__file__).parent
# A model so small that an image takes milliseconds; every kind of layer of the published systems is in it.
TINY = {
    "num_classes": 3,
    "model.backbone.depth": 14,
    "model.backbone.width": 8,
    "model.neck.channels": 16,
    "model.mask_feature_head.mid_channels": 8,
    "model.mask_feature_head.out_channels": 8,
    "model.head.channels": 16,
    "model.norm_groups": 4,
    "preprocess.short_side": 64,
    "preprocess.long_side": 96,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Size(NamedTuple):
    """The number of lines of something, and its name."""

    lines: int
    name: str


class Prediction(NamedTuple):
    """The package's own code for the prediction of one image in dygraph.

    modules: loaded ones, packages included. functions: those that ran, as (file, name), without lambdas and
    comprehensions.
    """

    modules: list[str]
    functions: list[tuple[str, str]]

    @property
    def files(self) -> set[str]:
        """The files of the functions."""
        return {file for file, _ in self.functions}


def sources() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), path.read_text(encoding="utf-8")


def longest_files() -> list[Size]:
    """Return every file with its number of lines, the longest first."""
    return sorted((Size(len(text.splitlines()), name) for name, text in sources()), reverse=True)


def longest_functions() -> list[Size]:
    """Return every function with its number of lines, docstring and signature included, the longest first."""
    found = []
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                found.append(Size((node.end_lineno or node.lineno) - node.lineno + 1, f"{name}:{node.name}"))
    return sorted(found, reverse=True)


def doubtful_signatures() -> list[str]:
    """Return functions with **kwargs, a mutable default or a parameter without a type."""
    found = []
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                found += [f"{name}:{node.name}: {fault}" for fault in _faults(node.args)]
    return found


def _faults(arguments: ast.arguments) -> Iterator[str]:
    if arguments.kwarg is not None:
        yield f"**{arguments.kwarg.arg}"
    for default in (*arguments.defaults, *arguments.kw_defaults):
        if isinstance(default, ast.List | ast.Dict | ast.Set):
            yield f"mutable default {ast.unparse(default)}"
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if each.annotation is None and each.arg not in ("self", "cls"):
            yield f"{each.arg} has no type"


def imports() -> dict[str, set[str]]:
    """Return module -> the package's modules that it imports, on loading or later, but not only for types."""
    modules = {_module(name) for name, _ in sources()}
    arrows: dict[str, set[str]] = {}
    for name, text in sources():
        targets = {target for node in _run(ast.parse(text)) for target in _targets(node)}
        # `from ppsolo.data import images` names a module; `from ppsolo.errors import ImageError` something in one.
        arrows[_module(name)] = {t if t in modules else t.rpartition(".")[0] for t in targets} & modules
    return arrows


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only the type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _run(node)


def _module(file: str) -> str:
    return ".".join(["ppsolo", *Path(file).with_suffix("").parts]).removesuffix(".__init__")


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ppsolo":
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "ppsolo")


def circle() -> list[str]:
    """Return modules that import each other in a circle, in order; empty if there is none."""
    arrows, done, way = imports(), set(), list[str]()

    def follow(module: str) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        way.append(module)
        for other in sorted(arrows.get(module, set()) - {module}):
            if found := follow(other):
                return found
        done.add(way.pop())
        return []

    return next((found for module in sorted(arrows) if (found := follow(module))), [])


def predict_once() -> Prediction:
    """Predict one image in dygraph with a tiny model from a file, and record the code that runs."""
    import tempfile

    import numpy as np
    import paddle

    config = ppsolo.load_config("solov2_r50_fpn_1x", TINY)
    with tempfile.TemporaryDirectory() as folder:
        paddle.seed(1)
        model = ppsolo.build_model(config)
        for layer in (model.head.category, model.head.kernel):
            paddle.nn.initializer.Normal(0.0, 0.6)(layer.weight)
        weights = Path(folder) / "tiny.pdparams"
        paddle.save(model.state_dict(), str(weights))
        predictor = ppsolo.Predictor(config, weights=weights, engine="dygraph")
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    functions = _recorded(lambda: predictor(image))
    modules = sorted(name for name in sys.modules if name.split(".")[0] == "ppsolo")
    return Prediction(modules, sorted(functions))


def _recorded(work: Callable[[], object]) -> set[tuple[str, str]]:
    """Return the package's functions that run during the work, in all threads."""
    seen: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and not code.co_name.startswith("<"):
            seen.add((str(Path(code.co_filename).relative_to(PACKAGE)), f"{code.co_name}:{code.co_firstlineno}"))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="list every module and function of the prediction")
    options = parser.parse_args()
    files, functions, prediction = longest_files(), longest_functions(), predict_once()
    lengths = sorted(size.lines for size in functions)
    lines = [
        f"{sum(size.lines for size in files)} lines in {len(files)} files, {len(functions)} functions",
        f"longest file: {files[0].lines} lines, {files[0].name}",
        f"longest function: {functions[0].lines} lines, {functions[0].name}; median {lengths[len(lengths) // 2]}, "
        f"90th percentile {lengths[len(lengths) * 9 // 10]}",
        f"circle of imports: {' -> '.join(circle()) or 'none'}",
        f"**kwargs, mutable defaults, parameters without a type: {'; '.join(doubtful_signatures()) or 'none'}",
        f"one image in dygraph: {len(prediction.modules)} modules loaded, {len(prediction.functions)} own functions "
        f"run in {len(prediction.files)} files",
    ]
    if options.all:
        lines += [*prediction.modules, *(f"{file}: {name}" for file, name in prediction.functions)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
