"""How large pieces of a rebuild are, and when they come."""

from __future__ import annotations

from streams.pace import Pace


def _pace(rows_per_s: float = 0.0) -> tuple[Pace, list[float]]:
    now = [1000.0]
    return Pace(rows_per_s, clock=lambda: now[0]), now


def test_pieces_are_large_without_traffic_and_small_beside_it() -> None:
    """A batch of updates makes pieces small for half a minute."""
    pace, now = _pace()
    idle = pace.limit
    pace.updated()
    busy = pace.limit
    now[0] += 31
    assert busy <= 2_000 < pace.limit == idle


def test_pieces_take_as_long_as_they_should_on_any_machine() -> None:
    """A slow tower gets smaller pieces, until one takes its time; a single slow piece does not decide."""
    pace, _ = _pace()
    pace.updated()
    pace.took(1_000, 4.0)
    assert pace.limit == 100, "never so small that a transaction is all there is"
    for _ in range(40):
        pace.took(pace.limit, 50e-6 * pace.limit)
    assert 450 < pace.limit < 550
    for _ in range(40):
        pace.took(pace.limit, 1e-6 * pace.limit)
    assert pace.limit == 2_000, "rows that need nothing must not make a piece of rows that do too large"


def test_small_pieces_say_nothing_about_the_time_of_a_row() -> None:
    """The fixed costs of a piece of three rows are not those of three rows."""
    pace, _ = _pace()
    before = pace.limit
    pace.took(3, 1.0)
    assert pace.limit == before


def test_a_rate_is_kept_over_all_pieces() -> None:
    """At 1,000 rows a second, ten seconds see ten thousand rows, in pieces that fit into the rate."""
    pace, now = _pace(1_000.0)
    looked = 0
    while now[0] < 1010.0:
        if pace.wait_s:
            now[0] += pace.wait_s
            continue
        assert pace.limit <= 200
        looked += pace.limit
        pace.took(pace.limit, 0.001)
    assert 9_800 <= looked <= 10_400


def test_one_piece_is_computed_at_a_time() -> None:
    """Whoever finds the turn taken is woken when it is free, once, whether or not another wanted it too."""
    pace, _ = _pace()
    woken: list[str] = []

    def first() -> None:
        woken.append("first")

    def second() -> None:
        woken.append("second")

    assert pace.begin(first)
    assert not pace.begin(second) and not pace.begin(second) and not pace.begin(first)
    pace.end()
    assert woken == ["second", "first"]
    assert pace.begin(second)
    pace.end()
    assert woken == ["second", "first"]
