"""Text from files and clients, made safe to print and to write."""


def one_line(text: str) -> str:
    """The text on one line of printable characters; others become a space, and several spaces one.

    Line breaks, terminal escapes, bells, direction marks and lone surrogates are not printable.

    >>> one_line("road\\nsign \\x1b[31m red\\ud800")
    'road sign [31m red'
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
