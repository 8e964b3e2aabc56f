"""Avro single-object encoding: bytes that name their own schema.

A record is `C3 01`, the CRC-64-AVRO fingerprint of its writer's schema (8 bytes, little-endian), and the Avro body
(Avro 1.12 specification, "Single-object encoding"). A reader needs no registry: it looks the fingerprint up among the
schemas of this build, retired ones (avro/retired/) included, and resolves the writer's schema to its own.

Dense vectors travel as `bytes` fields of little-endian float32, not as Avro arrays: decoding is then one
`numpy.frombuffer`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import fastavro
import fastavro.schema
from fastavro.read import SchemaResolutionError

from schemas.errors import DecodeError

__all__ = ["Codec", "codec", "schema_names"]

_MAGIC: Final = b"\xc3\x01"
_HEADER_BYTES: Final = 10
#: What fastavro raises on a body that does not fit its schema.
_BODY_ERRORS: Final = (
    EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, StopIteration,
    SchemaResolutionError,
)  # fmt: skip


class Codec:
    """Encodes and decodes the records of one schema.

    `decode` accepts any schema of this build with the same name that resolves to `schema`.
    """

    def __init__(self, schema: Mapping[str, Any], retired: tuple[Mapping[str, Any], ...] = ()) -> None:
        self._declared = dict(schema)
        self.schema = fastavro.parse_schema(dict(schema))
        self.name: str = schema["name"]
        self.fingerprint = _fingerprint(self.schema)
        self.header = _MAGIC + self.fingerprint
        writers = [fastavro.parse_schema(dict(old)) for old in retired]
        self._writers = {_fingerprint(old): old for old in writers} | {self.fingerprint: self.schema}

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """The record in single-object encoding. Raises ValueError or TypeError where a field does not fit."""
        out = io.BytesIO()
        out.write(self.header)
        fastavro.schemaless_writer(out, self.schema, record)
        return out.getvalue()

    def decode(self, data: bytes | None) -> dict[str, Any]:
        """The record in `data`.

        Raises DecodeError with reason `null_value`, `not_single_object`, `unknown_schema` or `undecodable`.
        """
        if data is None:
            raise DecodeError("null_value", f"expected a {self.name}")
        if data[:2] != _MAGIC or len(data) < _HEADER_BYTES:
            raise DecodeError(
                "not_single_object", f"expected {self.name} after C3 01, found {data[:2].hex() or 'nothing'}"
            )
        writer = self._writers.get(data[2:_HEADER_BYTES])
        if writer is None:
            raise DecodeError("unknown_schema", f"no {self.name} schema has fingerprint {data[2:_HEADER_BYTES].hex()}")
        body = io.BytesIO(data)
        body.seek(_HEADER_BYTES)
        try:
            record = fastavro.schemaless_reader(body, writer, None)
            if writer is not self.schema:
                # Again and not at once: while resolving, fastavro skips dropped fields without looking for their end.
                body.seek(_HEADER_BYTES)
                record = fastavro.schemaless_reader(body, writer, self.schema)
        except _BODY_ERRORS as error:
            raise DecodeError("undecodable", f"{self.name}: {type(error).__name__}: {error}") from error
        if body.tell() != len(data):
            raise DecodeError("undecodable", f"{self.name}: {len(data) - body.tell()} bytes left over")
        assert isinstance(record, dict)
        return record

    def leading(self, fields: int) -> Callable[[bytes], dict[str, Any]]:
        """A decoder of the first fields alone, for readers that only compare them: a fifth of the cost.

        Fields stand in the body in their order, so the rest need not be read; it is not checked either. For values
        that this build has written or that were decoded whole before.
        """
        head = fastavro.parse_schema({**self._declared, "fields": self._declared["fields"][:fields]})

        def decode(data: bytes) -> dict[str, Any]:
            if not data.startswith(self.header):
                return self.decode(data)
            body = io.BytesIO(data)
            body.seek(_HEADER_BYTES)
            found: dict[str, Any] = fastavro.schemaless_reader(body, head, None)
            return found

        return decode

    def prefix(self, leading: Mapping[str, Any]) -> bytes:
        """How every record begins whose first fields, in their order, are these."""
        fields = self._declared["fields"][: len(leading)]
        out = io.BytesIO()
        out.write(self.header)
        fastavro.schemaless_writer(out, fastavro.parse_schema({**self._declared, "fields": fields}), leading)
        return out.getvalue()

    def bytes_prefix(self, length: int) -> bytes:
        """What stands before the bytes of a record whose only field is `bytes` of this length.

        It is the same for every record, so that a batch of them is one array operation.
        """
        zigzag, varint = length << 1, bytearray()
        while zigzag > 0x7F:
            varint.append(zigzag & 0x7F | 0x80)
            zigzag >>= 7
        varint.append(zigzag)
        return self.header + bytes(varint)


def _fingerprint(schema: Any) -> bytes:
    canonical = fastavro.schema.to_parsing_canonical_form(schema)
    return bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))


@cache
def codec(name: str) -> Codec:
    """The codec of the schema in `avro/<name>.avsc`, retired writers' schemas `avro/retired/<name>.*.avsc` included."""
    folder = resources.files("schemas") / "avro"
    retired = folder / "retired"
    old = (
        [json.loads(file.read_text()) for file in retired.iterdir() if file.name.startswith(f"{name}.")]
        if retired.is_dir()
        else []
    )
    return Codec(json.loads((folder / f"{name}.avsc").read_text()), tuple(old))


def schema_names() -> list[str]:
    """Names of all current schemas, sorted."""
    folder = resources.files("schemas") / "avro"
    return sorted(file.name.removesuffix(".avsc") for file in folder.iterdir() if file.name.endswith(".avsc"))
