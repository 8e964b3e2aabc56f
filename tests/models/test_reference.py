from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import torch

from domain.activity_events import ActivityBatch
from domain.activity_row import ACTIVITY_FEATURES, Snapshots
from domain.artifact import HEAD, USER_PHASE
from domain.item_activity import fold as fold_items
from domain.lsh import hyperplanes, signatures
from domain.user_features import user_inputs
from domain.user_row import behaviours_of
from domain.user_state import EventBatch, fold
from models.config import ModelConfig
from models.examples import Batches, examples_of
from models.export import USER_OUTPUTS, Exported
from models.log import Log
from models.reference import score, user_feed
from models.tower import LoadedTower, n2o_records
from models.training import Trained
from schemas.codec import codec
from schemas.records import ItemRow, ItemUpdate


def _item_row(update: ItemUpdate, config: ModelConfig) -> ItemRow:
    planes = hyperplanes(config.signature_seed, config.signature_bits, config.embedding_dim)
    raw = update["embedding"]
    signature = signatures(np.frombuffer(raw, "<f4")[None], planes)[0].tobytes() if raw else None
    fields = {name: value for name, value in update.items() if name not in ("event_id", "op")}
    return {  # type: ignore[typeddict-item]
        **fields, "source_topic_id": 1, "source_offset": 0, "deleted": False, "signature": signature,
        "signature_version": config.signature_version,
    }  # fmt: skip


def test_the_artifact_scores_as_training_did(
    trained: Trained, exported: Exported, entries: list[tuple[str, Any]], log: Log, config: ModelConfig
) -> None:
    """Folded user rows, N2O records with activity, the ONNX user phase and the formula score as the torch model."""
    dims, layout = config.dimensions, config.dimensions.layout
    tower = LoadedTower.open(exported.folder, exported.manifest)
    rows = [_item_row(record, config) for kind, record in entries if kind == "item"]
    session = onnxruntime.InferenceSession(exported.folder / USER_PHASE, providers=["CPUExecutionProvider"])
    with np.load(exported.folder / HEAD) as archive:
        head = dict(archive)

    examples = examples_of(log).take(np.array([0, 40, 700, 2999]))
    batch = Batches(log, config, negatives=6).batch(examples, np.random.default_rng(4))
    with torch.inference_mode():
        expected = torch.sigmoid(trained.model(batch)).numpy()  # [B, C]
    items = log.catalogue.item_id[_rows_of(log, batch)]
    interval_ms = config.reembed_interval_ms

    events = [record for kind, record in entries if kind == "user"]
    for place, position in enumerate(examples.positions.tolist()):
        event = events[position]
        earlier = EventBatch.of(range(position), events[:position])
        heads = fold({}, earlier, topic_id=1).heads
        activity = fold_items({}, ActivityBatch(earlier.item_id, earlier.event_time_ms, earlier.action), interval_ms)
        snapshots = Snapshots.of([activity.rows.get(row["item_id"]) for row in rows])
        records = n2o_records(rows, snapshots, tower, layout, exported.manifest.version_tag)
        user = _head(heads, event["user_id"])
        users = user_inputs([user], [behaviours_of(user)[::-1]], np.array([event["event_time_ms"]]), dims)
        feed, categories = user_feed(users, records, dims)
        folded = dict(zip(USER_OUTPUTS, (output[0] for output in session.run(list(USER_OUTPUTS), feed)), strict=True))
        candidates = records[items[place]]  # item ids of the planted log are 0, 1, 2, ...
        found = score(dims, head, folded, {name: each[0] for name, each in feed.items()}, categories[0], candidates)
        np.testing.assert_allclose(found, expected[place], rtol=1e-4, atol=1e-5)


def _head(heads: dict[int, bytes], user: int) -> Any:
    """A user's row, decoded; None where there is none."""
    return codec("user_head").decode(heads[user]) if user in heads else None


def _rows_of(log: Log, batch: Any) -> Any:
    """Catalogue rows of a batch's candidates ([B, C]): the planted catalogue has distinct inputs per row."""
    ours = np.concatenate([log.catalogue.inputs.embedding, log.catalogue.inputs.numeric], axis=1)
    theirs = np.concatenate([batch.embedding.numpy(), batch.numeric.numpy()], axis=1)
    ours, theirs = ours[:, :-ACTIVITY_FEATURES], theirs[:, :-ACTIVITY_FEATURES]  # the catalogue has no activity
    match = (ours[None] == theirs[:, None]).all(-1).argmax(axis=1)
    return match[batch.candidates.numpy()]
