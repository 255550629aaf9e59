"""Text from files and clients, made safe to print and to write, and short."""

from collections.abc import Iterable


def printable(text: str) -> str:
    """The text with a space in place of each character that is not printable.

    Line breaks, terminal escapes, bells, direction marks and lone surrogates are not printable.

    >>> printable("a  b\\x1b[31m")
    'a  b [31m'
    """
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def one_line(text: str) -> str:
    """The text on one line of printable characters, with one space between its words.

    >>> one_line("road\\nsign \\x1b[31m red\\ud800")
    'road sign [31m red'
    """
    return " ".join(printable(text).split())


def first_few(values: Iterable[object], count: int = 3) -> str:
    """The first values with commas, and how many more there are.

    >>> first_few("abcde"), first_few([1, 2])
    ('a, b, c (and 2 more)', '1, 2')
    """
    texts = [str(value) for value in values]
    more = f" (and {len(texts) - count} more)" if len(texts) > count else ""
    return ", ".join(texts[:count]) + more


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "file"), counted(2, "file")
    ('1 file', '2 files')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
