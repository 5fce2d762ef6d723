"""Names and texts of others on one line: in tables, messages, logs and the messages of commits.

What is not printable UTF-8 stands as `\\xff` and the like, and in a name a backslash as `\\\\`, so that a name can be
told from every other. Nothing is left that a terminal would obey.
"""

from __future__ import annotations


def shown_name(raw: bytes) -> str:
    """A name or path."""
    return shown_text(raw.decode(errors="surrogateescape").replace("\\", "\\\\"))


def shown_text(text: str) -> str:
    """Text, with its backslashes as they are."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
