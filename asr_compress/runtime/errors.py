"""The one exception for bad input."""

from __future__ import annotations


class InputError(ValueError):
    """Input that a person can mend: a file, a key or a value that is not what it must be.

    The message is one line: which file or key, what was got, what is allowed, what to do. The command line
    prints it as it is and exits with code 2.
    """
