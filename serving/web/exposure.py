"""Who may reach a server: its address, its token, its certificate; and the refusal of combinations that nobody means.

A server answers anybody who reaches it. It therefore binds loopback unless told otherwise, and another address only
with a token, or when told that something in front of it decides (`--insecure`).
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.errors import BadInput

__all__ = ["Exposure", "read_token"]

_SHORTEST_TOKEN: Final = 16


@dataclass(frozen=True)
class Exposure:
    """An address and what guards it. Raises BadInput where it would be open to strangers by mistake."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False  #: something in front of it decides who may ask

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise BadInput("--tls-cert and --tls-key come together: the certificate chain and its private key, as PEM")
        if not (self.is_loopback or self.token or self.insecure):
            raise BadInput(
                f"{self.host} can be reached from other machines and there is no token: set AIF_TOKEN or --token-file, "
                "or say --insecure where something in front of the server decides who may ask"
            )
        if self.tls_cert is not None and self.tls_key is not None:
            _check_certificate(self.tls_cert, self.tls_key)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """What clients are given, but for the port, which may be chosen by the system."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.tls_cert is None else 'https'}://{host}"


def read_token(path: Path | None, env: str | None) -> str | None:
    """The token of a file, else of the environment (AIF_TOKEN); None where neither says one. Raises BadInput."""
    if path is not None:
        try:
            token, where = path.read_text().strip(), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"token file {path} cannot be read: {error}") from error
    elif env:
        token, where = env.strip(), "AIF_TOKEN"
    else:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput(f"the token in {where} must be {_SHORTEST_TOKEN} or more printable ASCII characters, no spaces")
    return token


def _check_certificate(cert: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"--tls-cert {cert} with --tls-key {key} cannot be used: {error}") from error
