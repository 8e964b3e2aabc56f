"""The state that `aif serve` made of a filled folder, opened in this process as a scoring process opens it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.serving_world import World, user_id
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from serving.feeding.state import StateFolder
from serving.ranking.scorer import Ranked, Scorer
from serving.rollout.announcements import rollout_in
from serving.rollout.versions import Version, load_model
from serving.stages import StageClock
from serving.tables.store import SlabKey, Store
from serving.user.user_side import Asked
from serving.user.user_state import StateMaker, UserState

__all__ = ["Opened", "opened"]


@dataclass(frozen=True)
class Opened:
    """Store and model; not for two threads at once."""

    world: World
    store: Store
    version: Version
    _scorer: Scorer

    def state(self, behaviours: int) -> UserState:
        """The first user with so many behaviours, read and computed anew. Raises Corrupt where it read others."""
        user = user_id(behaviours)
        asked = Asked(user, self.store.users.head(user), self.world.at_ms, behaviours)
        (state,) = StateMaker(self.store.users)(self.version, [asked])
        if state.behaviours_used != behaviours:
            raise Corrupt(f"a user state has {state.behaviours_used} behaviours, {behaviours} were to be measured")
        return state

    def rank(self, state: UserState, ids: npt.NDArray[np.int64], top_k: int) -> Ranked:
        """Find the rows of items ([n] ids), score them, choose the best."""
        return self._scorer.rank(self.version, state, ids, top_k, StageClock())


@contextmanager
def opened(world: World) -> Iterator[Opened]:
    """Open what is there; Corrupt where the state has no rows of the world's model."""
    deployment = Deployment(partitions=1, data_dir=world.data_dir)
    folder = StateFolder.of(deployment)
    store = Store(folder.path(folder.control.state), folder.readers)
    try:
        decided = rollout_in(store.decisions()).live
        if decided is None or decided.name != world.version:
            raise Corrupt(f"in {store.folder} {decided and decided.name} is live, not version {world.version}")
        model = load_model(decided, deployment)
        sizes = model.manifest.dimensions
        if (slab := store.slab(SlabKey(decided.slot, decided.tag))) is None:
            raise Corrupt(f"{store.folder} holds no rows of version {world.version}")
        version = Version(model.name, sizes, sizes.layout, model.phase, model.head, slab)
        yield Opened(world, store, version, Scorer())
    finally:
        store.close()
