from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from domain.quality import Costs, Quality, lengths, quality_for

milliseconds = st.floats(0, 10)
costs = st.builds(
    Costs, milliseconds, st.floats(0, 0.1), milliseconds, st.floats(0, 0.1), st.floats(0, 1e-3), st.integers(1, 64)
)
most = st.builds(Quality, st.integers(1, 10_000), st.integers(1, 10_000))


def test_history_goes_first_then_candidates() -> None:
    """A shorter deadline halves the history down to the fewest behaviours, then cuts candidates."""
    machine = Costs(1.0, 0.001, 0.1, 0.0005, 0.000001, fewest=32)
    everything = Quality(1024, 2000)
    chosen = [quality_for(deadline_ms, machine, everything) for deadline_ms in (inf, 100, 5, 3.1, 2.501, 0.1)]
    assert chosen == [
        everything, everything, Quality(256, 2000), Quality(32, 2000), Quality(32, 1301), Quality(32, 1),
    ]  # fmt: skip


def test_lengths_are_few() -> None:
    """From 10,000 behaviours to 32 there are ten lengths, so that states and batches stay shared."""
    assert lengths(32, 10_000) == [10_000, 5_000, 2_500, 1_250, 625, 312, 156, 78, 39, 32]
    assert lengths(32, 32) == [32]


@given(st.floats(0, 1000), st.floats(0, 1000), costs, most)
def test_a_longer_deadline_never_gives_less(one_ms, other_ms, machine, everything) -> None:
    """Behaviours and candidates both grow with the deadline, and never beyond what there is to read."""
    less, more = (quality_for(each, machine, everything) for each in sorted((one_ms, other_ms)))
    assert less.behaviours <= more.behaviours <= everything.behaviours
    assert 1 <= less.candidates <= more.candidates <= everything.candidates


@given(st.floats(0, 1000), costs, most)
def test_what_is_chosen_fits_where_anything_does(deadline_ms, machine, everything) -> None:
    """The plan keeps within its deadline unless even the least does not."""
    chosen = quality_for(deadline_ms, machine, everything)
    least = machine.of(min(machine.fewest, everything.behaviours), 1)
    assert machine.of(chosen.behaviours, chosen.candidates) <= max(deadline_ms, least) + 1e-9
