from __future__ import annotations

import numpy as np

from serving.ranking.merger_metrics import MergerMetrics
from serving.ranking.retrieval import Catalogue
from serving.ranking.turns import Turns
from serving.user.calibration import Speeds
from serving.user.upkeep import Upkeep
from serving.user.user_side import UserSide
from serving.user.user_state import StateMaker
from serving.user.user_states import UserStates
from tests.serving.conftest import item_rows


class Clock:
    """Seconds that a test moves by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def test_a_turn_makes_what_is_due(world, make_artifact) -> None:
    """A live version gets its costs and its shelf at once; the shelf is made again after its period and when the
    versions in use change, not before."""
    users = UserSide(StateMaker(world.store.users), UserStates(1 << 20), lambda start: start())
    speeds, clock, sweeps = Speeds(), Clock(), []

    def rows(version):
        sweeps.append(version.name)
        yield version.layout.empty(1)

    shelves = Catalogue(rows, lambda version, records: np.zeros(len(records), dtype=np.float32), None)
    upkeep = Upkeep(world.versions, users, speeds, shelves, sweep_s=60.0, monotonic_s=clock)
    upkeep.turn()
    first = make_artifact(3)
    world.apply("items", item_rows(range(100, 110)))
    world.go_live(first, range(100, 110))
    upkeep.turn()
    assert speeds.of(world.versions.live) is not None
    upkeep.turn()
    assert sweeps == [first.version]
    clock.now_s = 60.0
    upkeep.turn()
    assert sweeps == [first.version] * 2
    second = make_artifact(4)
    world.go_live(second, range(100, 110))
    upkeep.turn()
    assert sweeps[2:] == [second.version, first.version], "the retained one is ready for a roll-back"


def test_what_a_scrape_shows(world, make_artifact) -> None:
    """Every counter of the user side is there under its name, and says what happened."""
    world.apply("items", item_rows(range(100, 110)))
    world.go_live(make_artifact(3), range(100, 110))
    users = UserSide(StateMaker(world.store.users), UserStates(1 << 20), lambda start: start())
    shown = {
        sample.name: sample.value for metric in MergerMetrics(users, Turns()).collect() for sample in metric.samples
    }
    assert shown["aif_user_state_most_bytes"] == 1 << 20
    assert {"aif_user_phases_total", "aif_user_state_lookups_total", "aif_user_phase_batches_total"} <= shown.keys()
