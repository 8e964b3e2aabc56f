"""`python -m bench`: the stream measurements; options as of `aif bench streams`."""

from __future__ import annotations

from cli.bench import streams

if __name__ == "__main__":
    streams(prog_name="python -m bench")
