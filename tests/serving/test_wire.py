"""The reader that leaves raw tensors where they lie says what protobuf's own parser says."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.grpc import wire
from tame_deploy.serving.grpc.codec import receive
from tame_deploy.serving.grpc.schema import message

REQUEST = message("ModelInferRequest")

texts = st.text(max_size=5)
tensors = st.builds(
    lambda name, shape, values: {
        "name": name,
        "datatype": "INT64",
        "shape": shape,
        **({"contents": {"int64_contents": values}} if values else {}),
    },
    texts,
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.lists(st.integers(-5, 5), max_size=3),
)
requests = st.builds(
    lambda **fields: REQUEST(**fields).SerializeToString(),
    model_name=texts,
    id=texts,
    inputs=st.lists(tensors, max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=3),
)
#: Fields as they may stand in a message, valid or not: known, unknown, groups, cut off.
pieces = st.one_of(
    requests,
    st.binary(max_size=12),
    st.builds(
        lambda number, kind, rest: bytes((number << 3 | kind,)) + rest,
        st.integers(0, 9), st.integers(0, 7), st.binary(max_size=12),
    ),
)  # fmt: skip


def by_protobuf(data):
    try:
        return REQUEST.FromString(data)
    except DecodeError:
        return None


def same(data):
    expected, found = by_protobuf(data), receive(data, 0)
    assert isinstance(found, RequestError) == (expected is None)
    if expected is not None:
        assert [bytes(raw) for raw in found.raw] == list(expected.raw_input_contents)
        expected.ClearField("raw_input_contents")
        found.message.ClearField("raw_input_contents")
        assert found.message == expected


@given(requests)
def test_a_request_is_read_with_its_raw_tensors_in_place(data):
    assert wire.split(data, 7) is not None
    same(data)


@settings(max_examples=500)
@given(st.lists(pieces, max_size=4), st.integers(0, 40))
@example([b"\xba\x00\x01x"], 0)  # a tag that is longer than it need be
@example([b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"], 0)  # a length beyond all bounds
@example([b"\x0b\x3a\x01x\x0c"], 0)  # a group that holds the field's number
@example([b"\x3a\x05abc"], 0)
@example([b"\x0a\x01\xff"], 0)  # a name that is not UTF-8
def test_whatever_comes_gets_the_verdict_of_protobufs_parser(parts, cut):
    data = b"".join(parts)
    same(data[: max(0, len(data) - cut)])


@given(requests, st.data())
def test_a_request_with_a_byte_changed_gets_the_verdict_of_protobufs_parser(data, draw):
    if data:
        place = draw.draw(st.integers(0, len(data) - 1))
        same(data[:place] + bytes((draw.draw(st.integers(0, 255)),)) + data[place + 1 :])


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_a_field_is_written_as_protobuf_writes_it(values):
    expected = REQUEST(raw_input_contents=values).SerializeToString()
    assert b"".join(wire.field(7, values)) == expected


@pytest.mark.parametrize("size", [0, 127, 128, 16383, 16384, 2**21])
def test_lengths_of_every_width_are_written_and_read(size):
    same(b"".join(wire.field(7, [bytes(size)])))


def one(number, data):
    """Return a field of bytes."""
    return b"".join(wire.field(number, [data]))


INPUT, SHAPE, PARAMETERS, CONTENTS, STRINGS, RAW = 5, 3, 4, 5, 8, 7
#: Each is two fields, in the entry of the map and in the message around it.
NAMED = [one(PARAMETERS, one(1, b"%06d" % number)) for number in range(250_000)]
MANY = {
    "raw-inputs": b"\x3a\x00" * 4_000_000,
    "parameters": b"".join(NAMED),
    "parameters-of-an-input": one(INPUT, b"".join(NAMED)),
    "fields-of-one-parameter": one(PARAMETERS, one(2, b"\x10\x01" * 500_000)),
    "fields-that-nobody-knows": one(INPUT, b"\x78\x01" * 500_000),
    "groups-that-nobody-knows": b"\x7b\x7c" * 500_000,
    "behind-a-group-with-a-known-number": b"\xa3\x06\x2a\x01\x07\xa4\x06" + b"\x2a\x00" * 500_000,
    "behind-groups-in-an-input": one(INPUT, b"\xa3\x06\x23\x2a\x01\x07\x24\xa4\x06")
    + one(INPUT, b"\x22\x00" * 500_000),
    "fixed-numbers": one(INPUT, (b"\x79" + bytes(8) + b"\x7d" + bytes(4)) * 250_000),
    "strings": one(INPUT, one(CONTENTS, one(STRINGS, b"") * 500_000)),
    "numbers-one-by-one": one(INPUT, one(CONTENTS, b"\x20\x01" * 500_000)),
    "behind-a-tag-that-is-too-long": b"\xfa\x80\x00\x00" + b"".join(NAMED),
    "inside-of-a-tag-that-is-too-long": b"\xaa\x80\x00" + one(INPUT, b"".join(NAMED))[1:],
}


@pytest.mark.parametrize("name", MANY)
def test_fields_without_end_are_not_read(name):
    found = receive(MANY[name], 0)
    assert isinstance(found, RequestError)
    assert "more than 10000 fields" in str(found)


def test_so_many_fields_and_no_more_are_read():
    most = one(INPUT, b"".join(NAMED[: wire.MOST_FIELDS // 2 - 1]) + one(1, b"images"))
    assert len(receive(most, 0).message.inputs[0].parameters) == wire.MOST_FIELDS // 2 - 1
    assert isinstance(receive(most + one(RAW, b""), 0), RequestError) is False
    assert isinstance(receive(most + one(1, b"demo"), 0), RequestError)


@pytest.mark.parametrize("many", [b"\x7f" * 20_000, b"\x2a\x7f" + b"\xff" * 20_000])
def test_what_is_broken_among_the_first_fields_is_called_broken(many):
    assert "cut off" in str(receive(many, 0))


@pytest.mark.parametrize(
    "group",
    [b"\xa3\x06\x2a\x01\x07\xa4\x06", b"\x0b\x13\x14\x0c", b"\x0c", b"\x0b", b"\x0b\x14",
     b"\x2a\x02\x0b\x14", b"\x2a\x01\x0b\x0c", b"\x0b\x2a\x01\x0c\x0c"],
)  # fmt: skip
def test_groups_before_a_large_tensor_get_the_verdict_of_protobufs_parser(group):
    same(group + one(RAW, bytes(2 * wire.MOST_FIELDS)))
    same(one(RAW, bytes(2 * wire.MOST_FIELDS)) + group)


def test_numbers_in_one_field_are_one_however_many():
    values = np.zeros(1_000_000, "<f4").tobytes()
    found = receive(one(INPUT, one(CONTENTS, one(6, values))), 0)
    assert len(found.message.inputs[0].contents.fp32_contents) == 1_000_000


PACKED = {
    "bools": one(CONTENTS, one(1, bytes(200_000))),
    "integers": one(CONTENTS, one(2, b"\x80\x01" * 200_000)),
    "long-integers": one(CONTENTS, one(5, (b"\xff" * 9 + b"\x01") * 200_000)),
    "in-pieces": one(CONTENTS, one(4, bytes(1000)) * 200),
    "sizes": one(SHAPE, b"\x01" * 200_000),
}


@pytest.mark.parametrize("name", PACKED)
def test_so_many_packed_integers_as_a_model_takes_are_read_and_not_many_more(name):
    data = one(INPUT, PACKED[name])
    refused = receive(data, 99_999)
    assert isinstance(refused, RequestError)
    assert "more than 199999 packed integers" in str(refused)
    assert not isinstance(receive(data, 100_000), RequestError)
