"""A real log through broker, worker and server, against a recompute of the same log in memory."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet import verified, wait_for
from integration.conftest import TrainedModel
from integration.scores import Recompute, signature_of
from integration.system import ServerProcess, System

from domain.artifact import HEAD, ITEM_TOWER, MANIFEST, USER_PHASE, sha256
from domain.bf16 import from_bf16
from domain.n2o import Flag
from domain.partitioner import partition_of
from domain.rollout import Terms
from producers.publish import KEY, publish
from producers.rollout_view import RolloutView
from schemas.codec import codec
from schemas.errors import ArtifactError
from schemas.ids import WATERMARK_KEY, entity_key, hashed_id

pytestmark = [pytest.mark.broker, pytest.mark.timeout(200)]

DAY_MS = 86_400_000
TOLERANCE = 1e-4


def user_event(name: str, user: int, item: int, at_ms: int, **fields: Any) -> dict[str, Any]:
    """A user event; its id is made of `name`."""
    return {
        "event_id": hashed_id(name), "user_id": user, "item_id": item, "event_time_ms": at_ms, "action": "purchase",
        "category_id": None, "value": 1.0, "original_user_id": None, "original_item_id": None, **fields,
    }  # fmt: skip


def item_update(name: str, item: int, at_ms: int, **fields: Any) -> dict[str, Any]:
    """An item update; its id is made of `name`."""
    embedding = np.random.default_rng(hashed_id(name) % 2**32).standard_normal(64).astype("<f4").tobytes()
    return {
        "event_id": hashed_id(name), "item_id": item, "event_time_ms": at_ms, "op": "upsert", "original_id": None,
        "title": name, "category_id": 7, "price": 2.5, "published_ms": None, "embedding": embedding, "numeric": {},
        **fields,
    }  # fmt: skip


def some_users(system: System, count: int) -> list[int]:
    """Users of all kinds: those with most and with fewest events, and some between."""
    by_events = sorted(system.shop.users, key=lambda user: (len(system.shop.users[user]), user))
    return [by_events[place] for place in np.linspace(0, len(by_events) - 1, count).astype(int)]


def assert_ranked(answer: dict[str, Any], candidates: Sequence[int], expected: Sequence[float], top_k: int) -> None:
    """An answer has the expected scores, and the best `top_k` in order (nearly equal ones either way round)."""
    wanted = dict(zip(candidates, expected, strict=True))
    found = [(each["item_id"], each["score"]) for each in answer["items"]]
    assert len(found) == top_k and all(each["known"] for each in answer["items"])
    assert max(abs(score - wanted[item]) for item, score in found) < TOLERANCE
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))
    left_out = set(candidates) - {item for item, _ in found}
    assert len(left_out) == len(candidates) - top_k
    assert all(wanted[item] < found[-1][1] + TOLERANCE for item in left_out)


@pytest.fixture
def model(system: System, first_model: TrainedModel, second_model: TrainedModel) -> TrainedModel:
    """The model that the server answers with."""
    live = system.get("/readyz")["model_version"]
    return next(each for each in (first_model, second_model) if each.version == live)


def test_windows_and_behaviours_equal_a_recompute(system: System) -> None:
    """Windows and behaviours of every user are exactly those counted from the data set, now and days later."""
    shop, now_ms = system.shop, system.shop.newest_ms
    filled = 0
    for user, events in shop.users.items():
        own_ms = max(event["event_time_ms"] for event in events)
        for at_ms in (own_ms, now_ms, now_ms + 3 * DAY_MS):
            found = system.get(f"/v1/users/{user}/features?at_ms={at_ms}")
            assert found["windows"] == shop.windows(user, at_ms)
            assert found["behaviours"] == shop.behaviours(user)
            assert found["newest_event_time_ms"] == own_ms
            filled += sum(map(len, found["windows"].values()))
    assert filled > 500  # windows that are empty everywhere would agree with anything


def test_n2o_records_are_the_tower_on_the_newest_updates(system: System, model: TrainedModel) -> None:
    """Every item's record is the trained tower's output on its newest update, its signature exact to the bit."""
    shop, layout = system.shop, model.model.config.dimensions.layout
    rows = {record.key: record.value for record in system.records(system.deployment.changelog("n2o_a"))}
    del rows[WATERMARK_KEY]
    assert set(rows) == {entity_key(item) for item in shop.items}
    expected = Recompute(model.model, shop)
    for item, update in shop.items.items():
        raw = codec("n2o_row").decode(rows[entity_key(item)])["record"]
        record = np.frombuffer(raw, dtype=layout.dtype)[0]
        assert (record["item_id"], record["event_time_ms"]) == (item, update["event_time_ms"])
        assert record["version"] == model.exported.manifest.version_tag
        assert np.unpackbits(record["signature"]).tolist() == signature_of(update["embedding"], model.model).tolist()
        assert record["price"] == np.float32(update["price"])
        assert record["flags"] == Flag.HAS_PRICE | Flag.HAS_SIGNATURE | (
            (Flag.HAS_CATEGORY if update["category_id"] is not None else 0)
            | (Flag.DELETED if update["op"] == "delete" else 0)
        )
        for name, values in (("vector", expected.vectors), ("bridges", expected.bridges)):
            # Half a step of bfloat16, and what float32 sums differ by.
            assert np.allclose(from_bf16(record[name]), values[expected.row(item)], rtol=2**-8, atol=1e-5)


def test_scores_are_those_of_the_model_that_was_trained(system: System, model: TrainedModel) -> None:
    """30 users' scores of 500 candidates, and the order of the best 50, are the torch model's on rows in memory."""
    shop, recompute = system.shop, Recompute(model.model, system.shop)
    choose, at_ms = np.random.default_rng(1), shop.newest_ms
    spreads = []
    for user in some_users(system, 30):
        candidates = choose.choice(shop.live, 500, replace=False).tolist()
        expected = recompute.scores(user, at_ms, candidates)
        answer = system.rank(user, candidates, at_ms=at_ms)
        assert answer["model_version"] == model.version and answer["user_known"]
        read = min(len(shop.users[user]), model.model.config.dimensions.long_behaviours)
        assert (answer["behaviours_used"], answer["behaviours_missing"]) == (read, 0)
        assert_ranked(answer, candidates, expected.tolist(), 500)
        best = system.rank(user, candidates, at_ms=at_ms, top_k=50)
        assert best["items"] == answer["items"][:50]
        spreads.append(float(np.ptp(expected)))
    assert min(spreads) > 50 * TOLERANCE  # scores that hardly differ would prove little


def test_now_is_the_newest_event_applied(system: System, model: TrainedModel) -> None:
    """Without at_ms a request is answered as of the newest event in the log, and not of this machine's clock."""
    user, candidates = some_users(system, 3)[1], system.shop.live[:20]
    answer = system.rank(user, candidates)
    assert answer["at_ms"] == system.shop.newest_ms
    expected = Recompute(model.model, system.shop).scores(user, system.shop.newest_ms, candidates)
    assert_ranked(answer, candidates, expected.tolist(), len(candidates))


def test_unknown_users_and_items_get_the_documented_default(system: System, model: TrainedModel) -> None:
    """A stranger scores as one who never did anything, an unknown item as nothing known and last; both are counted."""
    stranger, unknown, at_ms = 4_000_000_001, [4_000_000_011, 4_000_000_012], system.shop.newest_ms
    known = system.shop.live[:30]
    users = system.server_metric("aif_rank_users_total", outcome="unknown")
    missing = system.server_metric("aif_candidates_total", outcome="missing")
    answer = system.rank(stranger, [*unknown, *known], at_ms=at_ms)
    assert not answer["user_known"] and answer["behaviours_used"] == 0 and answer["missing_items"] == 2
    assert [(each["item_id"], each["known"]) for each in answer["items"][-2:]] == [(item, False) for item in unknown]
    expected = Recompute(model.model, system.shop).scores(stranger, at_ms, [*known, *unknown]).tolist()
    assert_ranked({"items": answer["items"][:-2]}, known, expected[:30], 30)
    assert [each["score"] for each in answer["items"][-2:]] == pytest.approx(expected[30:], abs=TOLERANCE)
    assert system.server_metric("aif_rank_users_total", outcome="unknown") == users + 1
    assert system.server_metric("aif_candidates_total", outcome="missing") == missing + 2
    assert system.server.http.get(f"/v1/users/{stranger}/features").status_code == 404
    assert system.server.http.get(f"/v1/items/{unknown[0]}").status_code == 404


def broken(kind: str, good: bytes, key: bytes, record: dict[str, Any]) -> list[tuple[str, bytes | None, bytes | None]]:
    """(reason, key, value) of records that must be refused."""
    encode = codec(kind).encode
    far_ms = int(time.time() * 1000) + DAY_MS
    entity = {"user_event": "user_id", "item_update": "item_id"}[kind]
    found: list[tuple[str, bytes | None, bytes | None]] = [
        ("undecodable", key, good[:-1]),
        ("undecodable", key, good[:10] + b"\xff" * 40),
        ("not_single_object", key, b'{"event_id": 1}'),
        ("unknown_schema", key, good[:2] + bytes(8) + good[10:]),
        ("null_value", key, None),
        ("null_key", None, good),
        ("key_mismatch", key, encode({**record, entity: record[entity] + 1})),
        ("negative_time", key, encode({**record, "event_time_ms": -1})),
        ("far_future", key, encode({**record, "event_time_ms": far_ms})),
    ]
    if kind == "user_event":
        return [*found, ("not_finite", key, encode({**record, "value": math.nan}))]
    nan = np.full(64, np.nan, dtype="<f4").tobytes()
    return [
        *found,
        ("vector_length", key, encode({**record, "embedding": record["embedding"][:-4]})),
        ("not_finite", key, encode({**record, "embedding": nan})),
        ("not_finite", key, encode({**record, "price": math.inf})),
        ("not_finite", key, encode({**record, "numeric": {"stock": math.nan}})),
    ]


@pytest.mark.parametrize("kind", ["item_update", "user_event"])
def test_bad_records_become_dead_letters_and_their_neighbours_count(system: System, kind: str) -> None:
    """Each refused record is one letter with reason, place and bytes; good ones sent in the same batch are applied."""
    source, at_ms, item, user = f"{kind}s".replace("_", "-"), system.shop.newest_ms, 5_000_001, 5_000_002
    if kind == "item_update":
        key, record = entity_key(item), item_update("bad neighbour", item, at_ms)
        goods = [("item", {**record, "title": title}) for title in ("before", "after")]
    else:
        key, record = entity_key(user), user_event("bad neighbour", user, system.shop.live[0], at_ms)
        goods = [("user", {**record, "event_id": number}) for number in (1, 2)]
    bad = broken(kind, codec(kind).encode(record), key, record)
    values = [codec(kind).encode(good) for _, good in goods]
    refused = system.worker_metric("aif_dead_letters_total", source=source)
    partition = partition_of(int.from_bytes(key, "big"), system.deployment.partitions)
    batch = [(key, values[0]), *((bad_key, value) for _, bad_key, value in bad), (key, values[1])]
    offsets = system.write(source, partition, batch)
    assert offsets == list(range(offsets[0], offsets[0] + len(batch)))
    system.shop.take(goods)
    system.settle()

    letters = [letter for letter in system.dead_letters(source) if letter["offset"] in offsets]
    assert sorted(letter["offset"] for letter in letters if letter["partition"] == partition) == offsets[1:-1]
    by_offset = {letter["offset"]: letter for letter in letters if letter["partition"] == partition}
    for offset, (reason, bad_key, value) in zip(offsets[1:-1], bad, strict=True):
        letter = by_offset[offset]
        assert (letter["reason"], letter["key"], letter["value"]) == (reason, bad_key, value)
        assert letter["topic"] == system.deployment.topic(source) and letter["detail"]
    assert system.worker_metric("aif_dead_letters_total", source=source) == refused + len(bad)
    if kind == "item_update":
        assert system.get(f"/v1/items/{item}")["title"] == "after"
    else:
        found = system.get(f"/v1/users/{user}/features?at_ms={at_ms}")
        assert found["windows"]["5m"] == {"purchase": 2} and found["behaviours"] == system.shop.behaviours(user)


def test_a_deleted_item_stays_deleted(system: System, model: TrainedModel) -> None:
    """A deletion makes an item unservable, a late older update does not raise it, and its buyers' scores stay right."""
    now_ms, (buyer, *_) = system.shop.newest_ms, some_users(system, 2)[::-1]
    later_ms = now_ms + 120_000  # of another tile: a state kept from before the deletion does not answer
    item = system.shop.behaviours(buyer)[0]["item_id"]
    candidates = [item, *(other for other in system.shop.live if other != item)][:100]
    system.send([("item", item_update("deletion", item, now_ms + 2_000, op="delete"))])
    system.send([("item", item_update("late", item, now_ms + 1_000))])
    system.settle()
    found = system.get(f"/v1/items/{item}")
    assert not found["live"] and [row["deleted"] for row in found["rows"]] == [True]
    answer = system.rank(buyer, candidates, at_ms=later_ms)
    assert answer["deleted_items"] == 1 and answer["missing_items"] == 0 and answer["behaviours_missing"] == 0
    assert (answer["items"][-1]["item_id"], answer["items"][-1]["known"]) == (item, False)
    expected = Recompute(model.model, system.shop).scores(buyer, later_ms, candidates).tolist()
    assert answer["items"][-1]["score"] == pytest.approx(expected[0], abs=TOLERANCE)
    assert_ranked({"items": answer["items"][:-1]}, candidates[1:], expected[1:], 99)
    system.send([("item", item_update("back again", item, now_ms + 3_000))])
    system.settle()
    assert system.rank(buyer, candidates, at_ms=now_ms)["deleted_items"] == 0


def test_verification_finds_no_difference(system: System) -> None:
    """`aif verify` recomputes every table from the topics and finds it equal, with a letter for each refused record."""
    report = verified(system.deployment)
    assert report.rows == {
        "items": len(system.shop.items),
        "n2o_a": len(system.shop.items),
        "n2o_b": 0,
        "n2o_c": 0,
        "users": len(system.shop.users),
        "item_activity": len(system.shop.activity),
    }
    assert report.rows["item_activity"] > 1_000 and report.coverage["n2o_a"].awaiting_activity == 0
    letters = sum(len(system.dead_letters(source)) for source in ("item-updates", "user-events"))
    assert report.refused_records == letters


class Asker:
    """Asks the server the same question again and again, in a thread of its own."""

    def __init__(self, system: System, user: int, candidates: Sequence[int], at_ms: int) -> None:
        self.answers: list[dict[str, Any]] = []
        self._ask = lambda: system.rank(user, candidates, at_ms=at_ms)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.answers.append(self._ask())


def test_a_flip_to_another_model_mixes_nothing(
    system: System, model: TrainedModel, first_model: TrainedModel, second_model: TrainedModel
) -> None:
    """While rows are rebuilt, scored in the shadow, and the server flips, every answer names one version and has that
    version's scores; the version goes live by what the shadow has shown."""
    old, new = model, first_model if model is second_model else second_model
    shop, at_ms, user = system.shop, system.shop.newest_ms, some_users(system, 2)[1]
    candidates = shop.live[:400]
    expected = {each.version: Recompute(each.model, shop).scores(user, at_ms, candidates) for each in (old, new)}
    assert np.abs(expected[old.version] - expected[new.version]).max() > 100 * TOLERANCE
    with Asker(system, user, candidates, at_ms) as asker:
        wait_for(lambda: len(asker.answers) >= 5, 10)
        publish(system.deployment, str(new.exported.folder), Terms(min_overlap=0.005))
        wait_for(lambda: asker.answers[-1]["model_version"] == new.version, 60)
        seen = len(asker.answers)
        wait_for(lambda: len(asker.answers) >= seen + 20, 20)
    versions = [answer["model_version"] for answer in asker.answers]
    flip = versions.index(new.version)
    assert flip >= 5 and versions == [old.version] * flip + [new.version] * (len(versions) - flip)
    for answer in asker.answers:
        assert_ranked(answer, candidates, expected[answer["model_version"]].tolist(), len(candidates))
    assert system.get("/v1/versions")["live"]["coverage"] == 1
    with RolloutView(system.deployment) as view:
        assert view.decided[-1].event["decision"] == "live"
        assert "mean top-k overlap" in view.decided[-1].event["reason"]
        (report,) = view.shadows.values()
    assert (report["version"], report["live"], report["failed"]) == (new.version, old.version, 0)
    assert report["requests"] >= 100 and report["drift_sum"] > 0
    verified(system.deployment)


def damaged_copy(model: TrainedModel, name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """An artifact of its own version with one byte of one file flipped, and the announcement made before that."""
    manifest = replace(model.exported.manifest, training={"copy": name})
    copy = folder / manifest.version
    shutil.copytree(model.exported.folder, copy)
    (copy / MANIFEST).write_bytes(manifest.to_json())
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    return copy, {
        "event_id": hashed_id(name), "event_time_ms": 1, "version": manifest.version, "uri": str(copy),
        "manifest_sha256": sha256(manifest.to_json()), "published_by": "test", "reason": "", "command": "publish",
        **asdict(Terms()),
    }  # fmt: skip


def rejected(system: System, version: str) -> str:
    """Why a version is rejected, which must come within seconds."""
    with RolloutView(system.deployment) as view:
        assert view.wait(lambda: getattr(view.state.get(version), "phase", "") == "rejected", 20)
        return str(view.state.get(version).reason)


def test_a_damaged_artifact_changes_nothing(system: System, model: TrainedModel, tmp_path: Path) -> None:
    """One flipped byte in any file: nobody publishes it; announced all the same, it is rejected, everybody goes on."""
    for name in (HEAD, USER_PHASE, ITEM_TOWER):
        copy, announcement = damaged_copy(model, name, tmp_path)
        with pytest.raises(ArtifactError, match=f"{name} has sha256"):
            publish(system.deployment, str(copy))
        system.write("model-versions", 0, [(KEY, codec("model_version").encode(announcement))])
        assert name in rejected(system, announcement["version"])

    shop, user, at_ms, item = system.shop, some_users(system, 2)[1], system.shop.newest_ms, 5_000_100
    system.send([("item", item_update("after damaged artifacts", item, at_ms))])
    system.settle()
    candidates = [item, *(other for other in shop.live[:50] if other != item)]
    expected = Recompute(model.model, shop).scores(user, at_ms, candidates).tolist()
    newcomer = ServerProcess(system.deployment, "server-1").start()
    try:
        wait_for(lambda: (newcomer.ready() or {}).get("ready"), 20, lambda: f"never ready: {newcomer.ready()}")
        for http in (system.server.http, newcomer.http):
            answer = http.post("/v1/rank", json={"user_id": user, "candidates": candidates, "at_ms": at_ms}).json()
            assert answer["model_version"] == model.version
            assert_ranked(answer, candidates, expected, len(candidates))
    finally:
        newcomer.stop()


def test_the_broker_away_makes_answers_old_and_not_absent(system: System, model: TrainedModel, broker: Any) -> None:
    """Killed, the broker costs no answer: they say how old they are; back again, new events count as before."""
    shop, user, at_ms = system.shop, some_users(system, 2)[1], system.shop.newest_ms
    candidates = shop.live[:100]
    before = system.rank(user, candidates, at_ms=at_ms)
    broker.kill()
    killed_s = time.monotonic()
    try:
        wait_for(lambda: system.server_metric("aif_broker_connected") == 0, 20)
        ages = []
        while time.monotonic() < killed_s + 4:
            asked_s = time.monotonic()
            answer = system.rank(user, candidates, at_ms=at_ms)
            assert answer["items"] == before["items"] and answer["age_ms"] >= 1000 * (asked_s - killed_s)
            ages.append(answer["age_ms"])
            time.sleep(0.2)
        assert ages == sorted(ages)
        assert system.server.http.get("/readyz").status_code == 200
    finally:
        broker.start()
    item = next(item for item in shop.live if item not in {each["item_id"] for each in shop.behaviours(user)})
    system.send([("user", user_event("after the crash", user, item, at_ms + 60_000))])

    def applied() -> bool:
        if system.worker.process.poll() is not None:
            assert system.worker.process.returncode in (69, 70), system.worker.log_tail()
            system.worker.start()  # what a supervisor does
        found = system.server.http.get(f"/v1/users/{user}/features").json()
        return bool(found["newest_event_time_ms"] == at_ms + 60_000)

    wait_for(applied, 90, lambda: f"{system.server.ready()}\n{system.worker.log_tail()}")
    # The age is that of the feed's oldest partition: each of them reconnects in its own time.
    wait_for(lambda: system.rank(user, candidates)["age_ms"] < 2_000, 60, lambda: str(system.server.ready()))
    answer = system.rank(user, candidates)
    assert answer["at_ms"] == at_ms + 60_000
    expected = Recompute(model.model, shop).scores(user, at_ms + 60_000, candidates)
    assert_ranked(answer, candidates, expected.tolist(), len(candidates))
    verified(system.deployment)
