"""Advice on arguments that a command does not know."""

import argparse
import difflib
import re
from pathlib import Path
from typing import NoReturn

from ppsolo.config import dotted_keys
from ppsolo.schema import Config


class AdvisingParser(argparse.ArgumentParser):
    """A parser whose refusal of a wrong choice names the nearest one; so do the parsers of its commands."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", message)
        if found is not None:
            near = difflib.get_close_matches(found[1].lower(), re.findall(r"[\w-]+", found[2]), n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        super().error(message)


def refuse_unknown(command: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Exit with one line that names the arguments, and what to write instead where that is clear.

    command: the parser of the command, whose usage is shown first.
    """
    advice = (
        _of_pattern(command.format_help(), unknown)
        or _advice(command.format_help(), unknown[0])
        or f"{command.prog} --help lists what it knows"
    )
    command.error(f"unrecognized arguments: {' '.join(unknown)}; {advice}")


def _of_pattern(help_text: str, unknown: list[str]) -> str:
    """Return advice where the shell replaced a pattern by several files."""
    files = [Path(word) for word in unknown if not word.startswith("-")]
    if "--source" not in help_text or len(files) < len(unknown) or not all(file.is_file() for file in files):
        return ""
    return f"put patterns in quotes: --source '{files[0].parent / '*'}{files[0].suffix}'"


def _advice(help_text: str, word: str) -> str:
    flags = sorted(set(re.findall(r"--\w+", help_text)))
    if not word.startswith("-"):
        config = Path(word).suffix in (".yml", ".yaml") and "--config" in flags
        flag = "-c" if config else next((flag for flag in ("--source", "--model_dir") if flag in flags), "")
        return f"did you mean {flag} {word}?" if flag else ""
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    known = {flag[2:]: [flag] for flag in flags}
    for key in dotted_keys(Config, "") if "--override" in flags else ():
        known.setdefault(key.rpartition(".")[2], []).append(f"-o {key}=VALUE")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {' or '.join(known[near[0]][:3])}?" if near else ""
