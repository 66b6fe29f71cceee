r"""Names of files and identities, which are bytes, as text.

Python has them with surrogates for bytes that are not UTF-8 (`os.fsdecode`), which no
file of text can hold. In text, such a byte and a control character is `\xNN`, and a
backslash is doubled.
"""

import codecs
import os
import re

_ESCAPE = re.compile(rb"\\(\\|x[0-9a-fA-F]{2})")
_CONTROLS = {n: f"\\x{n:02x}" for n in (*range(32), 127)}


def written(name: str | bytes) -> str:
    r"""Returns a name as text.

    >>> written(b"Zo\xc3\xab"), written(b"\xcd\xf5"), written("a\\b")
    ('Zoë', '\\xcd\\xf5', 'a\\\\b')
    """
    doubled = os.fsencode(name).replace(b"\\", b"\\\\")
    return doubled.decode("utf-8", "backslashreplace").translate(_CONTROLS)


def unwritten(text: str) -> str:
    r"""Returns the name of a text, with surrogates for bytes that are not UTF-8.

    A backslash before anything else stays one, so names that users type are accepted.
    """

    def replaced(match: re.Match) -> bytes:
        code = match[1]
        return code if code == b"\\" else bytes([int(code[1:], 16)])

    return os.fsdecode(_ESCAPE.sub(replaced, os.fsencode(text)))


def normal(text: str) -> str:
    """Returns the text of the name that a user typed or wrote into a file."""
    return written(unwritten(text))


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = (ord(c) for c in error.object[error.start : error.end])
    text = (f"\\x{n - 0xDC00:02x}" if n >= 0xDC80 else "?" for n in codes)
    return "".join(text), error.end


PRINTED = "data_pipelines.names"  # of a stream's `errors`: prints paths as above
codecs.register_error(PRINTED, _escaped)
