"""`python -m asr_compress` is `asr-compress`."""

from __future__ import annotations

from asr_compress.cli import main

if __name__ == "__main__":
    main()
