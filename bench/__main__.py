"""`python -m bench`: the stream measurements; options as of `aif bench streams`."""

from __future__ import annotations

import sys

from cli.bench import streams
from schemas.errors import AifError, exit_status

if __name__ == "__main__":
    try:
        streams(prog_name="python -m bench")
    except AifError as error:
        print(f"aif: {error}", file=sys.stderr)
        sys.exit(exit_status(error))
