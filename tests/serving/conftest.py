"""A tiny deployment without broker, torch or workers: an artifact, changelog rows, and a service over them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnx
import orjson
import pytest
from onnx import TensorProto, helper, numpy_helper

from domain.artifact import HEAD, ITEM_TOWER, MANIFEST, USER_PHASE, Dimensions, Manifest, sha256
from domain.cross_features import CROSS_FEATURES
from domain.n2o import Flag
from domain.rollout import Decision, Rollout, Terms
from domain.user_row import FINGERPRINT
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import WATERMARK_KEY, entity_key
from serving.feeding.freshness import Freshness
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.metrics import Metrics
from serving.ranking.service import Service
from serving.rollout.flip import Flip
from serving.rollout.versions import Versions, load_model
from serving.stages import StageClock
from serving.tables.progress import Progress
from serving.tables.store import Store, TablePartition
from serving.web.api import create_app
from serving.web.rank_request import RankRequest

SIZES = Dimensions(
    embedding_dim=64, signature_bits=64, category_buckets=8, item_numeric=3, vector_dim=4, bridges=3, tiers=8,
    tier_groups=(("click", "purchase"), ("impression",)), behaviours=6, attention=True, long_behaviours=20,
    cross_categories=2, user_features=56, hidden=(5, 4),
)  # fmt: skip
DEPLOYMENT = Deployment()
NOW_MS = 1_700_000_000_000


@pytest.fixture
def sizes() -> Dimensions:
    """Dimensions of the tiny model."""
    return SIZES


def tiny_weights(seed: int) -> dict[str, np.ndarray]:
    """Weights of the tiny user phase, which is linear in everything that it reads."""
    rng, (h1, _) = np.random.default_rng(seed), SIZES.hidden
    shapes = {
        "window_weight": (SIZES.user_features, h1),
        "pooled_weight": (SIZES.vector_dim, h1),
        "age_weight": (1, h1),
        "action_weight": (1, h1),
        "bridge_of": (SIZES.vector_dim, SIZES.bridges * h1),
        "din_weight": (SIZES.vector_dim, h1),
        "attention_of": (SIZES.vector_dim, h1),
        "category_of": (CROSS_FEATURES, h1),
        "b1": (h1,),
    }
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def tiny_graph(seed: int) -> bytes:
    """user_phase.onnx of the tiny model."""
    sizes, (h1, _) = SIZES, SIZES.hidden
    make, float32, int64 = helper.make_node, TensorProto.FLOAT, TensorProto.INT64
    constants = {
        **tiny_weights(seed),
        "last": np.array([-1], dtype=np.int64),
        "behaviour_axis": np.array([1], dtype=np.int64),
        "first": np.array([0], dtype=np.int64),
        "newest": np.array([sizes.attended], dtype=np.int64),
        "bridge_shape": np.array([-1, sizes.bridges, h1], dtype=np.int64),
    }
    nodes = [
        make("Unsqueeze", ["present", "last"], ["mask"]),
        make("Mul", ["vectors", "mask"], ["x"]),
        make("ReduceSum", ["x", "behaviour_axis"], ["pooled"], keepdims=0),
        make("Mul", ["ages", "present"], ["age"]),
        make("ReduceSum", ["age", "behaviour_axis"], ["age_sum"], keepdims=1),
        make("Cast", ["actions"], ["codes"], to=float32),
        make("Mul", ["codes", "present"], ["code"]),
        make("ReduceSum", ["code", "behaviour_axis"], ["code_sum"], keepdims=1),
        make("MatMul", ["windows", "window_weight"], ["from_windows"]),
        make("MatMul", ["pooled", "pooled_weight"], ["from_pooled"]),
        make("MatMul", ["age_sum", "age_weight"], ["from_ages"]),
        make("MatMul", ["code_sum", "action_weight"], ["from_actions"]),
        make("Sum", ["from_windows", "from_pooled", "from_ages", "from_actions", "b1"], ["bias"]),
        make("MatMul", ["pooled", "bridge_of"], ["flat"]),
        make("Reshape", ["flat", "bridge_shape"], ["bridge_weight"]),
        make("Transpose", ["signatures"], ["bits"], perm=[0, 2, 1]),
        make("MatMul", ["bits", "x"], ["similar"]),
        make("MatMul", ["similar", "din_weight"], ["signature_weight"]),
        make("Slice", ["x", "first", "newest", "behaviour_axis"], ["x_newest"]),
        make("MatMul", ["x_newest", "attention_of"], ["attention_weight"]),
        make("MatMul", ["cross", "category_of"], ["category_weight"]),
    ]
    inputs = {
        "windows": (float32, ["B", sizes.user_features]),
        "vectors": (float32, ["B", "L", sizes.vector_dim]),
        "signatures": (float32, ["B", "L", sizes.signature_bits]),
        "actions": (int64, ["B", "L"]),
        "ages": (float32, ["B", "L"]),
        "present": (float32, ["B", "L"]),
        "cross": (float32, ["B", "K", CROSS_FEATURES]),
    }
    outputs = {
        "bias": (float32, ["B", h1]),
        "bridge_weight": (float32, ["B", sizes.bridges, h1]),
        "signature_weight": (float32, ["B", sizes.signature_bits, h1]),
        "attention_weight": (float32, ["B", sizes.attended, h1]),
        "category_weight": (float32, ["B", "K", h1]),
    }
    graph = helper.make_graph(
        nodes,
        "user_phase",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiny_head(seed: int) -> dict[str, np.ndarray]:
    """The head's arrays; of the table of attention only the lower half is 0."""
    rng = np.random.default_rng(seed + 1)
    shapes = SIZES.head_shapes
    arrays = {name: np.asarray(rng.normal(0, 0.5, shape), dtype=np.float32) for name, shape in shapes.items()}
    arrays["attention_table"] = np.linspace(-1, 1, SIZES.signature_bits + 1, dtype=np.float32).clip(min=0)
    return arrays


@dataclass(frozen=True)
class Artifact:
    """A tiny artifact on disk."""

    folder: Path
    manifest: Manifest
    seed: int

    @property
    def version(self) -> str:
        """16 hex digits."""
        return self.manifest.version

    @property
    def tag(self) -> int:
        """As rows carry it."""
        return self.manifest.version_tag

    def decided(self, decision: str, state: Rollout, slot: str = "", **fields) -> dict:
        """The next decision about it; keyword arguments replace fields."""
        return {
            "epoch": state.epoch + 1, "event_time_ms": NOW_MS, "decision": Decision(decision).value,
            "version": self.version, "slot": slot, "command_offset": -1, "uri": str(self.folder),
            "manifest_sha256": sha256(self.manifest.to_json()), **vars(Terms()), "by": "test", "reason": decision,
            **fields,
        }  # fmt: skip


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Artifact]:
    """Writes the artifact of a seed below artifacts/; keyword arguments replace fields of its manifest."""

    def make(seed: int, **fields) -> Artifact:
        buffer = io.BytesIO()
        np.savez(buffer, **tiny_head(seed))
        # Serving never loads the tower; its checksum is a part of the artifact all the same.
        files = {USER_PHASE: tiny_graph(seed), HEAD: buffer.getvalue(), ITEM_TOWER: b"a tower"}
        described = {
            "dimensions": SIZES, "signature_version": DEPLOYMENT.signature_version, "window_fingerprint": FINGERPRINT,
            "record_stride": SIZES.layout.stride, "training": {"seed": seed},
        }  # fmt: skip
        manifest = Manifest(files={name: sha256(data) for name, data in files.items()}, **{**described, **fields})
        folder = tmp_path / "artifacts" / manifest.version
        folder.mkdir(parents=True)
        for name, data in {**files, MANIFEST: manifest.to_json()}.items():
            (folder / name).write_bytes(data)
        return Artifact(folder, manifest, seed)

    return make


def n2o_records(tag: int, ids: Iterable[int], seed: int = 0, flags: int = Flag.HAS_SIGNATURE) -> np.ndarray:
    """Random records of a version."""
    ids, layout, rng = list(ids), SIZES.layout, np.random.default_rng(seed)
    records = layout.empty(len(ids))
    records["item_id"], records["version"], records["flags"] = ids, tag, flags
    records["signature"] = rng.integers(0, 256, (len(ids), SIZES.signature_bits // 8))
    layout.set_vectors(
        records,
        rng.normal(size=(len(ids), SIZES.vector_dim)).astype(np.float32),
        rng.dirichlet(np.ones(SIZES.bridges), len(ids)).astype(np.float32),
    )
    return records


def n2o_rows(records: np.ndarray) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of a slot."""
    encode = codec("n2o_row").encode
    return (
        [entity_key(int(each)) for each in records["item_id"]],
        [encode({"record": records[row].tobytes()}) for row in range(len(records))],
    )


def item_rows(ids: Iterable[int], deleted: bool = False) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of table items; titles are `item <id>`."""
    ids, encode = list(ids), codec("item_row").encode
    rows = [
        {
            "item_id": each, "event_time_ms": NOW_MS, "source_topic_id": 1, "source_offset": 5, "deleted": deleted,
            "original_id": None, "title": f"item {each}", "category_id": 3, "price": 1.5, "published_ms": None,
            "embedding": None, "numeric": {}, "signature": None, "signature_version": "",
        }
        for each in ids
    ]  # fmt: skip
    return [entity_key(each) for each in ids], [encode(row) for row in rows]


def user_rows(user: int, items: Iterable[int], action: str = "click") -> tuple[list[bytes], list[bytes]]:
    """Key and value of a user who did one thing a minute to these items, the last of them at NOW_MS."""
    items = list(items)
    events = [
        {
            "event_id": index, "user_id": user, "item_id": item, "category_id": None, "value": None, "action": action,
            "event_time_ms": NOW_MS - 60_000 * (len(items) - 1 - index),
            "original_user_id": None, "original_item_id": None,
        }
        for index, item in enumerate(items)
    ]  # fmt: skip
    head = fold({}, EventBatch.of(range(len(items)), events), 1).heads[user]
    return [entity_key(user)], [head]


def watermark_row(max_event_time_ms: int = NOW_MS, oldest_append_time_ms: int = 0) -> tuple[list[bytes], list[bytes]]:
    """Key and value of a watermark."""
    record = {
        "source_topic_id": 1, "next_source_offset": 9, "max_event_time_ms": max_event_time_ms,
        "oldest_append_time_ms": oldest_append_time_ms, "writer_epoch": 0, "wall_time_ms": NOW_MS,
    }  # fmt: skip
    return [WATERMARK_KEY], [codec("watermark").encode(record)]


def plain_request(candidates: Iterable[int], **fields) -> RankRequest:
    """A rank request of user 1 for these candidates."""
    return RankRequest.parse(orjson.dumps({"user_id": 1, "candidates": list(candidates), "at_ms": NOW_MS, **fields}))


@dataclass
class World:
    """All of a serving process but its feed and sockets."""

    deployment: Deployment
    folder: StateFolder
    store: Store
    writer: StoreWriter
    flip: Flip
    versions: Versions
    progress: Progress
    metrics: Metrics
    freshness: Freshness
    service: Service

    def apply(self, table: str, rows: tuple[list[bytes], list[bytes | None]]) -> list:
        """Apply changelog rows to partition 0 of a table."""
        return self.writer.apply(TablePartition(table, 0), *rows)

    def note_applied(self, offsets: dict[TablePartition, int]) -> None:
        """Let partitions have been applied up to these changelog offsets."""
        for at, offset in offsets.items():
            self.writer.apply(at, [], [], offset)

    @property
    def state(self) -> Rollout:
        """The decisions so far."""
        return self.versions.rollout

    def decide(self, decision: str, artifact: Artifact, **fields) -> None:
        """Append a decision to the log; a build takes the free slot."""
        slot = self.state.free_slot if decision == "build" else ""
        event = artifact.decided(decision, self.state, slot, **fields)
        before = self.state
        self.writer.decide([(len(self.store.decisions()), codec("rollout_event").encode(event))])
        assert self.state.epoch == before.epoch + 1, f"{decision} does not count now"

    def build(self, artifact: Artifact, **terms) -> str:
        """Publish a version and let it be built; returns its slot."""
        self.decide("accept", artifact, **terms)
        self.decide("build", artifact)
        return self.state.get(artifact.version).slot

    def fill(self, artifact: Artifact, ids: Iterable[int], seed: int = 0) -> np.ndarray:
        """Rows of a version into its slot; returns its records."""
        records = n2o_records(artifact.tag, ids, seed)
        self.apply(self.state.get(artifact.version).slot, n2o_rows(records))
        return records

    def load(self) -> None:
        """Load all that is to be loaded."""
        while version := self.versions.next_to_load():
            self.versions.loaded(load_model(version, self.deployment))

    def advance(self) -> bool:
        """Let the live version answer where it may."""
        self.versions.settle()
        advanced = self.flip.advance(self.state)
        self.versions.settle()
        return advanced

    def rank(self, candidates: Iterable[int], **fields) -> dict:
        """The JSON answer to a request of user 1, as data."""
        clock = StageClock()
        return self.service.as_json(self.service.rank_here(plain_request(candidates, **fields), clock), clock)

    def cover(self, artifact: Artifact, ids: Iterable[int], seed: int = 0) -> np.ndarray:
        """Build, fill, load and cover a version; returns its records."""
        self.build(artifact)
        records = self.fill(artifact, ids, seed)
        self.load()
        self.decide("cover", artifact)
        self.versions.settle()
        return records

    def go_live(self, artifact: Artifact, ids: Iterable[int], seed: int = 0) -> np.ndarray:
        """The whole way of a version, until it answers; returns its records."""
        records = self.cover(artifact, ids, seed)
        self.decide("live", artifact)
        assert self.advance()
        return records


class Client:
    """Requests to an ASGI application, without a socket."""

    def __init__(self, app) -> None:
        self._app = app

    def get(self, url: str) -> httpx.Response:
        """GET."""
        return self.send("GET", url)

    def rank(self, **body) -> httpx.Response:
        """POST /v1/rank with a JSON body."""
        return self.send("POST", "/v1/rank", json=body)

    def send(self, method: str, url: str, **options) -> httpx.Response:
        """One request."""
        return asyncio.run(self._send(method, url, options))

    async def _send(self, method: str, url: str, options: dict) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, url, **options)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty server that has caught up with an empty broker; feeder and reader in one."""
    deployment, folder = Deployment(data_dir=tmp_path), StateFolder(tmp_path / "serving")
    store = folder.open_or_create()[1]
    writer = StoreWriter(store)
    versions, progress = Versions(store, folder.control), Progress(connected=True, caught_up=True)
    freshness = Freshness(folder.folder / "freshness")
    metrics = Metrics(store, versions, progress, freshness)
    service = Service(deployment, store, versions, progress, metrics)
    flip = Flip(writer, folder.control)
    yield World(deployment, folder, store, writer, flip, versions, progress, metrics, freshness, service)
    versions.close()
    store.close()


@pytest.fixture
def client(world: World):
    """HTTP access to the world."""
    return Client(create_app(world.service, world.metrics, world.freshness))
