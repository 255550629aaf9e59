"""Text from files and clients, made safe to print and to write."""


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
