"""Shadow scoring from end to end: `aif serve` over HTTP, the board, the topic, `aif model compare`'s view of it."""

from __future__ import annotations

import re

import httpx
import pytest

from domain.shadow import ShadowSums, sums_of, to_compare
from producers.topics import create_topics
from tests.serving.conftest import item_rows, n2o_records, n2o_rows, user_rows
from tests.serving.feeding.test_feed import ITEMS, Writer, until
from tests.serving.feeding.test_shadow_reports import newest
from tests.serving.web.test_server import Served


@pytest.mark.broker
def test_requests_are_compared_behind_their_answers_and_reported(make_artifact, deployment, tmp_path) -> None:
    """Two scoring processes sample every request; together they report all of them, and answers stay the live one's."""
    live, covered = make_artifact(1), make_artifact(2)
    create_topics(deployment)
    with Writer(deployment) as writer:
        writer.write("items", item_rows(ITEMS))
        writer.write("users", user_rows(1, [200, 201]))
        writer.go_live(live, seed=1)
        writer.write(writer.build(covered), n2o_rows(n2o_records(covered.tag, ITEMS, seed=2)))
        writer.decide("cover", covered)
    pair = to_compare(writer.state)
    options = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix]
    options += ["--partitions", str(deployment.partitions), "--data-dir", str(tmp_path)]
    served = Served(*options, "--workers", "2", "--shadow-share", "1")
    try:
        served.until("/readyz", 200)

        def compared() -> int:
            """Ask once; how many requests /metrics has compared, of both processes."""
            body = {"user_id": 1, "candidates": list(ITEMS), "top_k": 5}
            answer = httpx.post(served.url + "/v1/rank", json=body)
            assert (answer.status_code, answer.json()["model_version"]) == (200, live.version)
            counts = re.findall(r'aif_shadow_requests_total{.*outcome="compared".*} (\S+)', _metrics(served))
            return int(sum(map(float, counts)))

        until(lambda: compared() >= 5, within_s=30)
        served.end()
    finally:
        served.process.kill()
        served.process.wait()
    total = sums_of(pair, newest(deployment)[1].values())
    assert total.requests >= 5 and total.failed == total.incomparable == 0
    assert 0 < total.overlap <= 1 and -1 <= total.correlation < 1 and total.drift > 0
    assert total != ShadowSums()


def _metrics(served: Served) -> str:
    return httpx.get(served.url + "/metrics").text
