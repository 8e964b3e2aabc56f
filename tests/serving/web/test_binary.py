from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import BadInput
from serving.web.binary import (
    BinaryAnswer,
    BinaryRequest,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
COUNTERS = st.integers(0, 2**32 - 1)
REQUESTS = st.builds(
    BinaryRequest,
    user_id=INT64, candidates=st.lists(INT64, min_size=1, max_size=50).map(lambda ids: np.array(ids, dtype=np.int64)),
    top_k=st.integers(0, 10_000), at_ms=st.none() | st.integers(0, 2**62 - 1), deadline_ms=COUNTERS,
    in_request_order=st.booleans(),
)  # fmt: skip


@st.composite
def answers(draw) -> BinaryAnswer:
    """Any answer."""
    count = draw(st.integers(0, 20))
    ids = None if draw(st.booleans()) else np.arange(count, dtype=np.int64) - 5
    counters = {
        name: draw(COUNTERS)
        for name in (
            "missing_items", "deleted_items", "duplicates", "filtered_items", "behaviours_used", "behaviours_missing",
        )
    }  # fmt: skip
    return BinaryAnswer(
        model_version=f"{draw(st.integers(0, 2**64 - 1)):016x}", sample_id=draw(st.integers(0, 2**64 - 1)),
        user_known=draw(st.booleans()), user_phase=draw(st.integers(0, 255)), at_ms=draw(INT64),
        age_ms=draw(st.none() | st.floats(0, 1e9, width=32)), item_ids=ids,
        scores=np.linspace(0, 1, count, dtype=np.float32), outcomes=np.arange(count, dtype=np.uint8) % 3, **counters,
    )  # fmt: skip


def plain(record: object) -> dict:
    """A record's fields with arrays as lists."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}


@given(REQUESTS)
def test_a_request_survives_its_bytes(request) -> None:
    """Decoding what was encoded gives every field back, and the size is 40 bytes and 8 a candidate."""
    body = encode_request(request)
    assert len(body) == 40 + 8 * len(request.candidates)
    assert plain(decode_request(body)) == plain(request)


@given(answers())
def test_an_answer_survives_its_bytes(answer) -> None:
    """Decoding what was encoded gives every field back, in both orders."""
    body = encode_answer(answer)
    assert len(body) == 64 + len(answer.scores) * (5 if answer.item_ids is None else 13)
    assert plain(decode_answer(body)) == plain(answer)


def test_the_bytes_are_those_of_the_document() -> None:
    """Version 1, field by field as docs/serving-api.md has it: a change of layout fails here."""
    request = BinaryRequest(42, np.array([1, -2], dtype=np.int64), 5, None, 50, True)
    assert encode_request(request).hex(" ", -4) == (
        "41494651 01010000 2a000000 00000000 ffffffff ffffffff 32000000 05000000 02000000 00000000 "
        "01000000 00000000 feffffff ffffffff"
    )
    answer = BinaryAnswer(
        model_version="0102030405060708", sample_id=9, user_known=True, user_phase=1, at_ms=7, age_ms=0.5,
        missing_items=1, deleted_items=2, duplicates=3, filtered_items=4, behaviours_used=5, behaviours_missing=6,
        item_ids=np.array([8], dtype=np.int64), scores=np.array([0.25], dtype=np.float32),
        outcomes=np.array([1], dtype=np.uint8),
    )  # fmt: skip
    assert encode_answer(answer).hex(" ", -4) == (
        "41494641 01020100 08070605 04030201 09000000 00000000 07000000 00000000 0000003f 01000000 01000000 02000000 "
        "03000000 04000000 05000000 06000000 08000000 00000000 0000803e 01"
    )


def body(**changes) -> bytes:
    """A valid request with some bytes replaced: `at<offset>` says where."""
    raw = bytearray(encode_request(BinaryRequest(1, np.array([1, 2], dtype=np.int64))))
    for place, value in changes.items():
        at = int(place.removeprefix("at"))
        raw[at : at + len(value)] = value
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "at least 40 bytes, this one 0"),
        (body()[:39], "at least 40 bytes, this one 39"),
        (body()[:-1], "2 candidates make 56 bytes, the body has 55"),
        (body() + b"x", "2 candidates make 56 bytes, the body has 57"),
        (body(at0=b"{"), "must begin with b'AIFQ'"),
        (body(at4=b"\x02"), "version 2 is not known"),
        (body(at5=b"\x02"), "only flag 1 is defined"),
        (body(at6=b"\x01"), "only flag 1 is defined"),
        (body(at16=b"\xfe"), "at_ms must be -1 or 0 to"),
        (body(at28=b"\xff\xff\xff\xff"), "top_k must be 0 to 10000"),
        (body(at32=b"\x00"), "count must be 1 to 10000 candidates, it is 0"),
        (body(at32=b"\xff\xff\xff\xff"), "count must be 1 to 10000 candidates"),
        (body(at36=b"\x01"), "only flag 1 is defined"),
    ],
)
def test_a_request_that_breaks_a_rule_is_told_which(raw, says) -> None:
    """Every rule of the head has its own sentence."""
    with pytest.raises(BadInput, match=says):
        decode_request(raw)


@settings(max_examples=150)
@given(st.binary(max_size=120), REQUESTS, st.data())
def test_any_bytes_decode_or_are_refused(junk, request, data) -> None:
    """Neither decoder raises anything but BadInput, whatever a valid body was cut or changed to."""
    raw = bytearray(encode_request(request))
    at = data.draw(st.integers(0, len(raw)))
    for each in (junk, bytes(raw[:at]), bytes(raw[:at]) + junk + bytes(raw[at + len(junk) :])):
        for decode in (decode_request, decode_answer):
            try:
                decode(each)
            except BadInput:
                continue


def test_numbers_that_do_not_fit_are_the_callers_fault() -> None:
    """A user id beyond int64 cannot be encoded, and it says so."""
    with pytest.raises(BadInput, match="does not fit"):
        encode_request(BinaryRequest(2**63, np.array([1], dtype=np.int64)))
