"""Writes the reference pages docs/configuration.md and docs/api.md from docstrings."""

import argparse
import dataclasses
import inspect
import re
import sys
import typing
from pathlib import Path

import ppsolo
from ppsolo.data.images import Source
from ppsolo.schema import Config

DOCS = Path(__file__).parent.parent / "docs"
HEAD = "<!-- Written by scripts/write_reference.py: change the docstrings, not this page. -->\n\n"


def configuration_page() -> str:
    """Return a page with every key of a configuration, its default and its meaning."""
    lines = ["# Configuration reference\n", HEAD]
    lines.append(
        "`-c` takes a YAML file or a shipped name. `-o section.key=value` changes a key. `_BASE_` names files to\n"
        "build on: mappings merge, lists replace. For a wrong key, type or choice, the error has the nearest key.\n"
    )
    for prefix, kind in _sections(Config, ""):
        lines.append(
            f"\n## {prefix or 'top level'}\n\n{_first_sentence(kind)}\n\n| key | default | meaning |\n|---|---|---|"
        )
        meanings = _meanings(kind)
        for entry in dataclasses.fields(kind):
            if not dataclasses.is_dataclass(typing.get_type_hints(kind)[entry.name]):
                default = entry.default if entry.default is not dataclasses.MISSING else "-"
                shown = str(list(default) if isinstance(default, tuple) else default).replace("|", "\\|")
                lines.append(f"| `{entry.name}` | `{shown}` | {meanings[entry.name]} |")
    return "\n".join(lines) + "\n"


def api_page() -> str:
    """Return a page with every public name, its signature and its docstring."""
    lines = ["# Python reference\n", HEAD + "The public names of `ppsolo`, and `ppsolo.deploy.load`.\n"]
    names = [name for name in ppsolo.__all__ if name not in ("__version__", "Config")]
    from ppsolo import deploy

    things = {name: getattr(ppsolo, name) for name in names} | {"deploy.load": deploy.load}
    for name, thing in things.items():
        lines.append(f"\n## ppsolo.{name}\n")
        lines += _described(name, thing)
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for member, value in vars(thing).items():
                described = callable(value) or hasattr(value, "__get__")  # not the value of a default
                if described and not member.startswith("_") and (doc := inspect.getdoc(value)):
                    function = getattr(value, "__func__", value)
                    call = _signature(function) if inspect.isfunction(function) else ""
                    lines.append(f"\n### {name}.{member}\n\n```text\n{member}{call}\n\n{doc}\n```")
    return "\n".join(lines) + "\n"


def _described(name: str, thing: object) -> list[str]:
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return [inspect.getdoc(thing) or ""]
    call = f"{name}{_signature(thing)}"
    doc = inspect.getdoc(thing) or ""
    start = inspect.getdoc(getattr(thing, "__init__", None)) if inspect.isclass(thing) else None
    more = f"\n\n{start}" if start and not start.startswith("Initialize self") else ""
    return [f"```text\n{call}\n\n{doc}{more}\n```"]


def _signature(thing: object) -> str:
    try:
        text = str(inspect.signature(thing))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return ""
    text = re.sub(r"<(?:class|function) '?([\w.]+)'?[^>]*>", r"\1", text)
    text = text.replace(inspect.formatannotation(Source), "Source")
    return re.sub(
        r"\b(?:ppsolo|typing|collections|os|pathlib)\.(?:[a-z_]+\.)*(?=[A-Z])", "", text
    )  # names of classes without their modules


def _sections(kind: type, prefix: str) -> list[tuple[str, type]]:
    found = [(prefix, kind)]
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found += _sections(hint, f"{prefix}.{name}" if prefix else name)
    return found


def _first_sentence(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _meanings(kind: type) -> dict[str, str]:
    """Return key -> its description in the docstring."""
    text = inspect.getdoc(kind) or ""
    meanings = {}
    for names, meaning in re.findall(r"^    ((?:\w+, )*\w+): (.*(?:\n        .*)*)", text, re.MULTILINE):
        for name in names.split(", "):
            meanings[name] = " ".join(meaning.split()).replace("|", "\\|")
    return meanings


PAGES = {"configuration.md": configuration_page, "api.md": api_page}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check whether the pages are up to date")
    options = parser.parse_args()
    for name, page in PAGES.items():
        if options.check and (DOCS / name).read_text(encoding="utf-8") != page():
            sys.exit(f"docs/{name} is out of date: run python scripts/write_reference.py")
        if not options.check:
            (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
