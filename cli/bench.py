"""`aif bench`: measure this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from schemas.errors import BadInput

__all__ = ["command", "kernels", "rollout", "serving", "streams", "windows"]


@click.group("bench")
def command() -> None:
    """Measure this project beside its rivals, on this machine.

    \b
    Example:
      aif bench streams --only item_updates_per_s,raw_per_s
    """


@command.command(
    "streams",
    epilog="""\b
Examples:
  aif bench streams                                         everything, three times
  aif bench streams --json | tail -1                        one JSON object
  aif bench streams --only item_updates_per_s,quix_per_s    two figures
""",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line instead of a table.")
@click.option("--records", default=200_000, show_default=True, help="Records per measurement; slow ones get half.")
@click.option("--entities", default=100_000, show_default=True, help="Items that keys are drawn from.")
@click.option("--repetitions", default=3, show_default=True, help="How often each is measured; medians are shown.")
@click.option("--only", default="", metavar="KEY,...", help="Measure these keys of the output alone.")
@click.option("--million", is_flag=True, help="Also the memory of a worker with a million items (minutes).")
def streams(as_json: bool, records: int, entities: int, repetitions: int, only: str, million: bool) -> None:
    """Stream workers: throughput, recovery and freshness of one core, on a broker of its own.

    Needs the packages of extra [bench] and Java, as `aif broker start` does. Nothing else should run meanwhile.
    """
    _require("`pip install -e '.[bench]'` in a checkout, then `make bench`", "bench", "confluent_kafka", "quixstreams")
    from rich.console import Console

    from bench.measures import MEASURES
    from bench.streams import MILLION, measure

    keys = [key.strip() for key in only.split(",") if key.strip()]
    if million:
        keys = [*(keys or [key for key in MEASURES if key != MILLION]), *([] if MILLION in keys else [MILLION])]
    console = Console(stderr=True)

    def progress(key: str, repetition: int) -> None:
        console.print(f"{repetition + 1}/{repetitions} {key}")

    found = measure(keys, records, entities, repetitions, progress)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)


@command.command(
    "windows",
    epilog="""\b
Examples:
  aif bench windows                          the fold, its bytes, and training rows
  aif bench windows --json | tail -1         one JSON object
  aif bench windows --dataset globo-news     also the bytes that a real log writes
""",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line instead of a table.")
@click.option("--events", default=400_000, show_default=True, help="Events per measurement.")
@click.option("--users", default=50_000, show_default=True, help="Users that act.")
@click.option("--repetitions", default=3, show_default=True, help="How often each is measured; medians are shown.")
@click.option("--broker", "with_broker", is_flag=True, help="Also the real worker beside Quix Streams' window.")
@click.option("--dataset", metavar="NAME", help="Also the bytes that this data set (or mapping file) writes.")
@click.option("--path", type=click.Path(path_type=Path, exists=True), help="Where its files lie, as in `aif replay`.")
def windows(
    as_json: bool, events: int, users: int, repetitions: int, with_broker: bool, dataset: str | None, path: Path | None
) -> None:
    """User windows, features and sequences: the pure fold, bytes written, export of training rows.

    With --broker also user events through the worker, on a broker of its own, as `aif bench streams` does.
    """
    _require("run in a checkout after `pip install -e '.[bench]'`", "bench", "numba", "pyarrow")
    from rich.console import Console

    from bench.windows import measure_dataset, measure_windows

    console = Console(stderr=True)
    found = measure_windows(
        events, users, repetitions, lambda name, number: console.print(f"{number + 1}/{repetitions} {name}")
    )
    if dataset is not None:
        console.print(dataset)
        found |= measure_dataset(dataset, path)
    if with_broker:
        from bench.window_lane import measure_lane

        console.print("worker and rival")
        found |= measure_lane(events, users)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, int | float):
            click.echo(f"{name:40} {value:>12,}")
        elif name not in ("machine", "commit"):
            click.echo(f"{name:40} {json.dumps(value)}")


@command.command(
    "kernels",
    epilog="""\b
Examples:
  aif bench kernels                                          every kernel that runs here
  aif bench kernels --candidates 4000 --behaviours 1024      one size
  aif bench kernels --json | tail -1                         one JSON object
""",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line instead of tables.")
@click.option("--candidates", default="4000,1000,10000", show_default=True, metavar="N,...")
@click.option("--behaviours", default="1024,256,10000", show_default=True, metavar="N,...")
@click.option("--repetitions", default=5, show_default=True, help="How often each is measured; medians are shown.")
def kernels(as_json: bool, candidates: str, behaviours: str, repetitions: int) -> None:
    """Scoring alone, by kernel and by part: CPU time of one thread.

    The first of each list is the pair whose parts are measured.
    """
    _require("run in a checkout after `make install`", "bench")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in a server; numpy reads it when it is first imported
    from bench.kernels import measure_kernels

    try:
        counts, lengths = ([int(each) for each in text.split(",")] for text in (candidates, behaviours))
    except ValueError as error:
        raise BadInput(f"--candidates and --behaviours are numbers separated by commas: {error}") from error
    found = measure_kernels(counts, lengths, repetitions, lambda name: click.echo(name, err=True))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'kernel':12} {'candidates x behaviours':>24} {'prepare us':>11} {'score us':>10} {'rank us':>8}")
    for name, sizes in found["us"].items():
        for size, steps in sizes.items():
            click.echo(f"{name:12} {size:>24} {steps['prepare']:11,.0f} {steps['score']:10,.0f} {steps['rank']:8,.0f}")
    for name, parts in found["parts_us"].items():
        told = ", ".join(f"{part} {us:,.0f}" for part, us in parts.items())
        click.echo(f"{name}: {told} us; layers {found['layers_gmac_per_s'][name]} GMAC/s")
    click.echo(f"float32 BLAS: {found['blas_gmac_per_s']} GMAC/s; {found['machine']['cpu']}, commit {found['commit']}")


@command.command(
    "serving",
    epilog="""\b
Examples:
  aif bench serving                                              everything, a million items (some minutes)
  aif bench serving --json | tail -1                             one JSON object
  aif bench serving --only inprocess_c_ms,torch_sequential_ms    two figures and their ratio
  aif bench serving --folder filled --only http_ms               keep what was filled for the next run
""",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line instead of a table.")
@click.option(
    "--items", default=1_000_000, show_default=True, type=click.IntRange(20_000), help="Items of the catalogue."
)
@click.option("--repetitions", default=5, show_default=True, type=click.IntRange(1), help="Rounds; medians are shown.")
@click.option("--only", default="", metavar="KEY,...", help="Measure these keys of the output alone.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where items and users are filled in, and kept  [default: a temporary one]",
)
def serving(as_json: bool, items: int, repetitions: int, only: str, folder: Path | None) -> None:
    """Scoring: in process, over HTTP, and beside the same network computed at request time.

    Starts `aif serve` on one core, without a broker, over a million items, and loads it from another core on a fixed
    schedule. Needs the extras [serving], [streams] and [train]. Nothing else should run meanwhile.
    """
    _require("run in a checkout after `make install`", "bench", "numba", "onnxruntime", "rocksdict", "torch")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the processes that it starts, as in a server
    from rich.console import Console

    from bench.serving import measure_serving
    from bench.serving_table import serving_table
    from bench.serving_world import Sizes

    console = Console(stderr=True)
    keys = [key.strip() for key in only.split(",") if key.strip()]
    found = measure_serving(keys, Sizes(items=items, rounds=repetitions), folder, console.print)
    click.echo(json.dumps(found) if as_json else serving_table(found))


@command.command(
    "rollout",
    epilog="""\b
Examples:
  aif bench rollout                              rebuild, live updates, freshness beside it, flip and roll-back
  aif bench rollout --json | tail -1             one JSON object
  aif bench rollout --only rebuild,flip          two of rebuild, updates, freshness, flip
""",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line instead of a table.")
@click.option(
    "--items", default=200_000, show_default=True, type=click.IntRange(10_000), help="Items of the catalogue."
)
@click.option("--repetitions", default=3, show_default=True, type=click.IntRange(1, 3), help="Medians are shown.")
@click.option("--only", default="", metavar="NAME,...", help="Measure these parts alone.")
def rollout(as_json: bool, items: int, repetitions: int, only: str) -> None:
    """A new model version: its rebuild beside the limit, and what those who are served notice of it.

    Worker and server on one core, on a broker of its own. Needs what `aif bench streams` and `serving` need. Nothing
    else should run meanwhile.
    """
    _require("`pip install -e '.[bench]'` in a checkout", "bench", "confluent_kafka", "numba", "onnxruntime", "torch")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the processes that it starts, as in a server
    from rich.console import Console

    from bench.rollout import measure_rollout

    keys = [key.strip() for key in only.split(",") if key.strip()]
    found = measure_rollout(keys, items, repetitions, Console(stderr=True).print)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        if name not in ("machine", "commit", "versions"):
            click.echo(f"{name:40} {value if isinstance(value, int | float) else json.dumps(value)}")
    click.echo(f"{found['machine']['cpu']}, {found['machine']['kernel']}, commit {found['commit']}")


def _require(remedy: str, *modules: str) -> None:
    """Raise BadInput with the remedy where a module cannot be imported.

    The bench belongs to a checkout and is not installed; the console script does not look there by itself.
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "bench" / "streams.py").is_file() and str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise BadInput(f"{', '.join(missing)} cannot be imported: {remedy}")


def _print(found: dict[str, Any]) -> None:
    plain = {name: value for name, value in found.items() if isinstance(value, int | float)}
    for name, value in {**plain, **found.get("freshness_ms", {}), **found["ratios"]}.items():
        click.echo(f"{name:40} {value:>12,}")
    click.echo(f"{found['machine']['cpu']}, {found['machine']['kernel']}, commit {found['commit']}")
