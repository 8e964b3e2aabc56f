from __future__ import annotations

from itertools import count

from serving.user.calibration import Speeds, measured_costs
from tests.serving.conftest import SIZES, item_rows


def test_costs_are_taken_from_the_best_of_several_runs(world, make_artifact) -> None:
    """With a clock that ticks once a reading every run takes a second: no behaviour or candidate costs more."""
    world.apply("items", item_rows(range(100, 110)))
    world.go_live(make_artifact(3), range(100, 110))
    ticks = count()
    costs = measured_costs(world.versions.live, clock_s=lambda: float(next(ticks)))
    assert (costs.user_phase_ms, costs.scoring_ms, costs.fewest) == (1000.0, 1000.0, SIZES.behaviours)
    assert (costs.behaviour_ms, costs.candidate_ms, costs.pair_ms) == (0.0, 0.0, 0.0)


def test_a_version_is_measured_once(world, make_artifact) -> None:
    """Costs are there after measuring, of that version alone, and are all positive where work is done."""
    world.apply("items", item_rows(range(100, 110)))
    world.go_live(make_artifact(3), range(100, 110))
    speeds, version = Speeds(), world.versions.live
    assert speeds.of(version) is None
    speeds.measure(version)
    costs = speeds.of(version)
    speeds.measure(version)
    assert speeds.of(version) is costs
    assert costs is not None
    assert costs.user_phase_ms > 0
    assert costs.of(SIZES.behaviours, 100) > costs.user_phase_ms
    world.go_live(make_artifact(4), range(100, 110))
    assert speeds.of(world.versions.live) is None
