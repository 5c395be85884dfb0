"""Tensors on the wire: what goes out comes back, and what is no tensor is refused."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.grpc.codec import decode_request as decode_message
from tame_deploy.serving.grpc.codec import encode_response as encode_message
from tame_deploy.serving.grpc.codec import receive
from tame_deploy.serving.grpc.schema import message
from tame_deploy.serving.http.codec import decode_request, encode_response
from tame_deploy.serving.messages import InferResponse, OutputTensor
from tame_deploy.serving.strict_json import JsonBounds
from tame_deploy.serving.tensors import (
    DATATYPES,
    datatype_of,
    from_bytes,
    from_values,
    raw_bytes,
    to_values,
)

numbers = st.sampled_from([name for name in DATATYPES if name != "BYTES"]).flatmap(
    lambda name: hnp.arrays(
        DATATYPES[name], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if name[:2] == "FP" else None,
    )
)  # fmt: skip


def strings_of(values):
    found = np.empty(len(values), object)
    found[:] = values
    return found


strings = st.lists(st.binary(max_size=9), max_size=5).map(strings_of)


@given(st.one_of(numbers, strings))
def test_raw_bytes_come_back(array):
    found = from_bytes(raw_bytes(array), datatype_of(array.dtype), array.shape, name="x")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(numbers)
def test_values_in_json_come_back(array):
    values = json.loads(orjson.dumps(to_values(array), option=orjson.OPT_SERIALIZE_NUMPY))
    found = from_values(values, datatype_of(array.dtype), array.shape, name="x")
    np.testing.assert_array_equal(found, array)


@given(st.sampled_from(sorted(DATATYPES)), st.lists(st.integers(0, 4), max_size=3), st.binary())
def test_bytes_are_a_tensor_of_that_shape_or_refused(datatype, shape, data):
    try:
        found = from_bytes(data, datatype, shape, name="x")
    except RequestError:
        return
    assert list(found.shape) == shape
    assert raw_bytes(found) == data


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(st.sampled_from(sorted(DATATYPES)), anything)
def test_json_of_any_kind_is_a_tensor_or_refused(datatype, values):
    try:
        found = from_values(values, datatype, [2], name="x")
    except RequestError:
        return
    assert found.shape == (2,)
    assert found.dtype == DATATYPES[datatype]


BOUNDS = JsonBounds(values=1000, lists=1000)


@given(st.dictionaries(st.sampled_from(["id", "inputs", "outputs", "parameters"]), anything))
def test_any_json_is_a_request_or_refused(request):
    with contextlib.suppress(RequestError):
        decode_request(json.dumps(request).encode(), None, model="m", bounds=BOUNDS)


@example(b"", "0\x1f")
@given(st.binary(max_size=60), st.none() | st.text(max_size=5))
def test_any_body_is_a_request_or_refused(body, length):
    with pytest.raises(RequestError):
        decode_request(body, length, model="m", bounds=BOUNDS)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT8", [1, 256]), ("UINT8", [-1, 0]), ("UINT8", [1.5, 1]), ("UINT8", [True, False]),
        ("INT64", [2**63, 1]), ("FP32", ["1", "2"]), ("BOOL", [1, 0]), ("BYTES", ["a=b", "*"]),
        ("INT8", [[1], [2, 3]]), ("INT8", [1]), ("INT8", "12"), ("BF16", [1, 2]),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused(datatype, values):
    with pytest.raises(RequestError, match="'x'"):
        from_values(values, datatype, [2], name="x")


def test_an_answer_is_the_same_on_both_transports():
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    words = strings_of([b"a", b"\xff\x00"]).reshape(2, 1)
    answer = InferResponse(
        model="m",
        version="1",
        id="seven",
        outputs=(OutputTensor("l", logits), OutputTensor("w", words)),
    )
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}],
         "parameters": {"binary_data_output": True}}
    ).encode()  # fmt: skip
    raw, headers = encode_response(answer, decode_request(body, None, model="m", bounds=BOUNDS))
    length = int(headers["inference-header-content-length"])
    told = json.loads(raw[:length])
    found = message("ModelInferResponse").FromString(encode_message(answer))
    assert b"".join(found.raw_output_contents) == raw[length:]
    assert [list(one.shape) for one in found.outputs] == [one["shape"] for one in told["outputs"]]
    assert found.id == told["id"] == "seven"


def decoded(request):
    return decode_message(receive(request.SerializeToString(), 0))


def test_typed_contents_that_are_not_of_their_datatype_are_refused():
    request = message("ModelInferRequest")(model_name="m")
    tensor = request.inputs.add(name="x", datatype="INT64", shape=[2, 1])
    tensor.contents.int64_contents.extend([5, -1])
    tensor.contents.fp32_contents.append(1)
    with pytest.raises(RequestError, match="expected int64_contents"):
        decoded(request)


PLACES = {"b": "bool", "i": "int", "u": "uint", "f": "fp32", ("i", 8): "int64", ("u", 8): "uint64",
          ("f", 8): "fp64"}  # fmt: skip


@given(numbers.filter(lambda array: array.dtype != np.float16))
def test_typed_contents_of_a_message_are_its_values(array):
    kind, size = array.dtype.kind, array.dtype.itemsize
    place = PLACES.get((kind, size), PLACES[kind])
    request = message("ModelInferRequest")(model_name="m")
    tensor = request.inputs.add(
        name="x", datatype=datatype_of(array.dtype), shape=list(array.shape)
    )
    getattr(tensor.contents, f"{place}_contents").extend(array.ravel().tolist())
    if array.size:
        found = decoded(request).inputs[0].array
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("datatype", "place", "value"), [("UINT8", "uint", 256), ("INT8", "int", -129)]
)
def test_typed_contents_beyond_their_datatype_are_refused(datatype, place, value):
    request = message("ModelInferRequest")(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1])
    getattr(tensor.contents, f"{place}_contents").append(value)
    with pytest.raises(RequestError, match=f"beyond {datatype}"):
        decoded(request)


def test_strings_without_end_are_refused_before_they_are_made():
    with pytest.raises(RequestError, match="has 20000000 strings; expected at most"):
        from_bytes(b"", "BYTES", (20_000_000,), name="x")
    nested: list = [""] * 20_000
    for _ in range(400):  # each value would cost its depth
        nested = [nested]
    with pytest.raises(RequestError, match="its shape"):
        from_values(nested, "BYTES", (1,), name="x")


def test_floats_stand_where_unknown_fields_follow_them():
    request = message("ModelInferRequest")(model_name="m")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1.5, -2])
    tensor.contents.MergeFromString(b"\xfa\x06\x05\0\0\0\0\0")
    np.testing.assert_array_equal(decoded(request).inputs[0].array, [1.5, -2])
