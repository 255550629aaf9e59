"""Makes text from files and clients short and safe to print."""

from collections.abc import Iterable


def printable(text: str) -> str:
    """Replace each character that is not printable by a space.

    Not printable are line breaks, terminal escapes, bells, direction marks and lone surrogates.

    >>> printable("a  b\\x1b[31m")
    'a  b [31m'
    """
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def one_line(text: str) -> str:
    """Put the text on one line of printable characters, with one space between words.

    >>> one_line("road\\nsign \\x1b[31m red\\ud800")
    'road sign [31m red'
    """
    return " ".join(printable(text).split())


def first_few(values: Iterable[object], count: int = 3) -> str:
    """Join the first values with commas, and say how many more there are.

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
