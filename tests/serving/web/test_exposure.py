from __future__ import annotations

import ssl

import pytest
from click.testing import CliRunner

from cli.serve import command
from schemas.errors import BadInput
from serving.client import Client
from serving.web.api import create_app
from serving.web.exposure import Exposure, read_token
from tests.serving.certificates import self_signed
from tests.serving.conftest import Client as InProcess
from tests.serving.listening import Listening

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_nothing(host) -> None:
    """Only this machine can reach it."""
    assert Exposure(host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_other_addresses_need_a_token_or_a_word(host) -> None:
    """Without a token a server that strangers can reach is refused, unless --insecure says that this is meant."""
    with pytest.raises(BadInput, match=r"no token.*--insecure"):
        Exposure(host)
    assert Exposure(host, token=TOKEN).token and Exposure(host, insecure=True).insecure


def test_the_command_refuses_before_anything_starts(tmp_path) -> None:
    """`aif serve --host 0.0.0.0` ends at once and says what to do; so does a filter file with a fault."""
    done = CliRunner().invoke(command, ["--host", "0.0.0.0", "--data-dir", str(tmp_path)], env={"AIF_TOKEN": ""})
    assert isinstance(done.exception, BadInput) and "--token-file" in str(done.exception)
    (tmp_path / "filters.json").write_text("{")
    done = CliRunner().invoke(command, ["--filters", str(tmp_path / "filters.json"), "--data-dir", str(tmp_path)])
    assert isinstance(done.exception, BadInput) and "not JSON" in str(done.exception)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path) -> None:
    """The file wins; short tokens, spaces and files that are not there are refused by name."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path, "f" * 20) == TOKEN and read_token(None, "f" * 20) == "f" * 20
    assert read_token(None, None) is None and read_token(None, "") is None
    path.write_text("short")
    for given, says in (
        ((path, None), str(path)),
        ((None, "a b" * 10), "AIF_TOKEN"),
        ((tmp_path / "no", None), "read"),
    ):
        with pytest.raises(BadInput, match=says):
            read_token(*given)


def test_without_the_token_only_probes_answer(world) -> None:
    """401 with a challenge and a sentence on every other route, known or not; with it all is as usual."""
    client = InProcess(create_app(world.service, world.metrics, world.freshness, token=TOKEN))
    for path in ("/v1/versions", "/metrics", "/nowhere", "/openapi.json"):
        refused = client.get(path)
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Bearer")
        assert "AIF_TOKEN" in refused.json()["detail"]
        assert client.send("GET", path, headers={"authorization": "Bearer nearly"}).status_code == 401
    assert client.send("POST", "/v1/rank", json={}).status_code == 401
    assert client.get("/livez").status_code == 200 and client.get("/readyz").status_code in (200, 503)
    right = {"authorization": f"Bearer {TOKEN}"}
    assert client.send("GET", "/v1/versions", headers=right).status_code == 200
    assert client.send("POST", "/v1/rank", json={}, headers=right).status_code == 400


def test_tls_and_token_from_end_to_end(world, tmp_path) -> None:
    """A client that trusts the certificate and has the token gets through; one that trusts nobody does not."""
    cert, key = self_signed(tmp_path)
    exposure = Exposure(token=TOKEN, tls_cert=cert, tls_key=key)
    app = create_app(world.service, world.metrics, world.freshness, token=exposure.token)
    trusting = ssl.create_default_context(cafile=str(cert))
    with Listening(app, tls=(cert, key)) as served:
        with Client(served.url, token=TOKEN, tls=trusting) as client:
            assert "epoch" in client.get("/v1/versions")
        with Client(served.url, tls=trusting) as client, pytest.raises(BadInput, match="401"):
            client.get("/v1/versions")
        with Client(served.url, token=TOKEN) as client, pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            client.get("/v1/versions")


def test_certificate_and_key_come_together_and_must_fit(tmp_path) -> None:
    """One without the other, or a file that is no certificate, is refused at the start."""
    cert, key = self_signed(tmp_path)
    with pytest.raises(BadInput, match="come together"):
        Exposure(tls_cert=cert)
    with pytest.raises(BadInput, match="cannot be used"):
        Exposure(tls_cert=key, tls_key=cert)
    with pytest.raises(BadInput, match="cannot be used"):
        Exposure(tls_cert=tmp_path / "absent", tls_key=key)
