"""Training examples of a log: which events are judged, against what, and the tensors of a batch of them.

A log with impressions has real negatives: every impression is an example, positive where the user engaged with the
item afterwards. Any other log has positives alone: every engagement is one, against negatives drawn from what the log
had shown by then (half by popularity: the item of a random earlier event; half uniformly from the catalogue so far).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from domain.cross_features import cross_features
from domain.lsh import signs
from models.batch import Batch
from models.config import ENGAGEMENTS, ModelConfig
from models.history import History
from models.item_history import ItemHistory
from models.log import Log
from schemas.errors import BadInput
from schemas.records import ACTION_CODES

__all__ = ["Batches", "Examples", "examples_of"]

_Int = npt.NDArray[np.int64]

_ENGAGEMENT_CODES: Final = np.array([ACTION_CODES[action] for action in ENGAGEMENTS], dtype=np.uint8)
_IMPRESSION: Final = ACTION_CODES["impression"]
#: An impression is answered by what the user does to the item within this time, before its next impression.
_ANSWER_WITHIN_MS: Final = 30 * 60_000


@dataclass(frozen=True)
class Examples:
    """Judged events in time order, each [E]; `sampled` where negatives are drawn for each of them."""

    positions: _Int  #: in the log's events
    labels: npt.NDArray[np.float32]
    states: _Int  #: log position just before which the user is read; the event's own, or an earlier one
    sampled: bool

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, chosen: _Int | slice) -> Examples:
        """Some of the examples, by place."""
        return Examples(self.positions[chosen], self.labels[chosen], self.states[chosen], self.sampled)

    def split(self, log: Log, held_out: float) -> tuple[Examples, Examples]:
        """The examples before and from the time at which the last share `held_out` of them begins.

        Impressions of the second part all see their user as of the first of them: were each to see the outcomes of
        those before it, a user's few outcomes would be compared with themselves (after a click, what is left is
        rather no click), and a per-user metric would punish every model that reads them. Raises BadInput where either
        part is empty.
        """
        times = log.events.time_ms[self.positions]
        cut = int(np.searchsorted(times, times[int(len(self) * (1 - held_out))])) if len(self) else 0
        if not 0 < cut < len(self):
            raise BadInput(
                f"the log gives {len(self)} examples, {cut} of them before the held-out tail: too few to train on; "
                "needed are engagements (or impressions) with items of the catalogue over some time"
            )
        tail = self.take(slice(cut, len(self)))
        if not tail.sampled:
            _, first, user = np.unique(log.events.user_id[tail.positions], return_index=True, return_inverse=True)
            tail = replace(tail, states=tail.positions[first[user]])
        return self.take(slice(0, cut)), tail


def examples_of(log: Log) -> Examples:
    """All examples of a log whose item was in the catalogue, and not deleted, at the time."""
    events = log.events
    engaged = np.isin(events.action, _ENGAGEMENT_CODES)
    shown = events.action == _IMPRESSION
    sampled = not shown.any()
    judged = engaged if sampled else shown
    labels = engaged if sampled else _answered(log, shown, engaged)
    row = log.catalogue.rows_at(events.item_id, events.time_ms)
    known = row >= 0
    known[known] = ~log.catalogue.deleted[row[known]]
    positions = np.flatnonzero(judged & known)
    return Examples(positions, labels[positions].astype(np.float32), positions, sampled)


def _answered(log: Log, shown: npt.NDArray[np.bool_], engaged: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    events = log.events
    relevant = np.flatnonzero(shown | engaged)
    order = relevant[np.lexsort((relevant, events.item_id[relevant], events.user_id[relevant]))]
    here, after = order[:-1], order[1:]  # neighbours in the log of one user and item
    answer = (
        engaged[after]
        & (events.user_id[here] == events.user_id[after])
        & (events.item_id[here] == events.item_id[after])
        & (events.time_ms[after] - events.time_ms[here] <= _ANSWER_WITHIN_MS)
    )
    answered = np.zeros(len(events), dtype=np.bool_)
    answered[here[answer]] = True
    return answered


class Batches:
    """Makes batches of examples, drawing fresh negatives with the generator that it is given."""

    def __init__(self, log: Log, config: ModelConfig, negatives: int, behaviours: int = 0) -> None:
        """`behaviours` of each user where a model beside AIF reads more than `config.long_behaviours`."""
        self._log = log
        self.dimensions = replace(config.dimensions, long_behaviours=max(behaviours, config.long_behaviours))
        self._negatives = negatives
        self._history = History(log.events)
        self.activity = ItemHistory(log.events, config.reembed_interval_ms)
        items, first = np.unique(log.catalogue.item_id, return_index=True)
        first_ms = log.catalogue.time_ms[first]  # rows are sorted by (item, time)
        order = np.argsort(first_ms, kind="stable")
        self._published, self._published_ms = items[order], first_ms[order]

    def batch(self, examples: Examples, generator: np.random.Generator, drawn: int | None = None) -> Batch:
        """The tensors of some examples: one candidate each, and after it the drawn ones.

        `drawn` of them where it is given; without it the negatives of a log whose examples are `sampled`, else none.
        """
        negatives = drawn if drawn is not None else self._negatives if examples.sampled else 0
        log, positions = self._log, examples.positions
        items = log.events.item_id[positions][:, None]
        if negatives:
            items = np.concatenate((items, self._drawn(positions, negatives, generator)), axis=1)  # [B, C]
        rows = log.catalogue.rows_at(items, log.events.time_ms[positions][:, None])
        labels = np.zeros(items.shape, dtype=np.float32)
        labels[:, 0] = examples.labels
        weights = (rows >= 0) & ~log.catalogue.deleted[rows]
        # Only what is chosen here is no negative. What the user had before may be chosen again or not: left out of the
        # negatives alone, "had it before" would mean "positive".
        weights[:, 1:] &= items[:, 1:] != items[:, :1]
        return self.joined(examples.states, rows, positions[:, None], labels, weights.astype(np.float32))

    def joined(
        self, states: _Int, rows: _Int, positions: _Int, labels: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32],
    ) -> Batch:  # fmt: skip
        """Users as of just before log positions `states` [B], and candidates: catalogue rows [B, C] with the activity
        of their items as of just before `positions` (of a shape that broadcasts to [B, C])."""
        log = self._log
        users = self._history.before(states, self.dimensions)
        at_ms = log.events.time_ms[states][:, None]
        behaviour_rows = np.where(users.present, log.catalogue.rows_at(users.item_ids, at_ms), -1)
        present = behaviour_rows >= 0
        categories, cross = cross_features(
            log.catalogue.inputs.category[behaviour_rows], users.actions, users.ages, present,
            self.dimensions.cross_categories,
        )  # fmt: skip

        # An item enters as what it was at the time: a state of the catalogue, and a snapshot of its activity.
        snapshots = np.concatenate(
            (
                self.activity.before(log.catalogue.item_id[rows], positions),
                self.activity.before(users.item_ids, states[:, None]),
            ),
            axis=1,
        )
        kinds = len(self.activity.features)
        # Behaviours that are not there share one row, whatever stands in their places.
        pairs = np.concatenate((rows + 1, behaviour_rows + 1), axis=1) * kinds
        pairs += np.where(pairs > 0, snapshots, 0)
        pairs, place = np.unique(pairs, return_inverse=True)
        place = place.reshape(len(states), -1)
        used = pairs // kinds - 1
        inputs = log.catalogue.inputs.take(used).with_activity(self.activity.features[pairs % kinds])
        item_signs = signs(log.catalogue.signatures[used]) * log.catalogue.has_signature[used, None]
        return Batch(
            item_ids=torch.from_numpy(log.catalogue.item_id[used]),
            embedding=torch.from_numpy(inputs.embedding),
            category=torch.from_numpy(inputs.category),
            numeric=torch.from_numpy(inputs.numeric),
            identity=torch.from_numpy(inputs.identity),
            signs=torch.from_numpy(item_signs),
            windows=torch.from_numpy(users.windows),
            behaviours=torch.from_numpy(place[:, rows.shape[1] :].copy()),
            actions=torch.from_numpy(users.actions),
            ages=torch.from_numpy(users.ages),
            present=torch.from_numpy(present.astype(np.float32)),
            categories=torch.from_numpy(categories),
            cross=torch.from_numpy(cross),
            candidates=torch.from_numpy(place[:, : rows.shape[1]].copy()),
            labels=torch.from_numpy(labels),
            weights=torch.from_numpy(weights),
        )

    def _drawn(self, positions: _Int, count: int, generator: np.random.Generator) -> _Int:
        """Items for each event ([B] -> [B, count] item ids), every second one by popularity."""
        share = generator.random((len(positions), count))
        popular = self._log.events.item_id[(share * positions[:, None]).astype(np.int64)]
        published = np.searchsorted(self._published_ms, self._log.events.time_ms[positions], side="right")
        uniform = self._published[(share * published[:, None]).astype(np.int64)]
        return np.where(np.arange(count) % 2 == 0, popular, uniform)
