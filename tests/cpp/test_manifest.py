"""Manifests in C++ are read, hashed, and refused at the same places, as in Python."""

import copy
import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tame_deploy.artifact.manifest import Manifest
from tame_deploy.errors import TameError
from tests.cpp.opening import ManifestReader, told
from tests.unit.artifact.test_manifest import EXAMPLE, manifests, older

letters = st.characters(exclude_categories=["Cs"])
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(letters, max_size=70),
    st.sampled_from(["images", "maps", "float32", "all", "cpu", "NCHW", "classes", "model.onnx"]),
)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(letters, max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def reader():
    with ManifestReader() as reading:
        yield reading


def python_says(text):
    """Return what the program should say, by Python."""
    try:
        manifest = Manifest.from_json(text)
    except TameError as error:
        # What a C string cannot hold is beyond its end.
        return {"status": type(error).__name__, "message": str(error).partition("\0")[0]}
    return {
        "status": "OK",
        "identity": manifest.identity(),
        "name": manifest.name,
        "classes": manifest.classes,
        "speed_only": manifest.speed_only,
        "files": len(manifest.files),
        "target": manifest.target or "",
        "precision": manifest.precision,
        "mean": list(manifest.image.mean),
        "std": list(manifest.image.std),
    }


def check_same(reader, text):
    said, expected = reader.read(text), python_says(text)
    for one in (said, expected):
        if "message" in one:
            one["message"] = told(one["message"])
    assert said == expected


def places(value, here=()):
    """Return where in a JSON value something stands."""
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    else:
        return [here]
    return [here, *(place for key, item in inner for place in places(item, (*here, key)))]


def within(value, way):
    return functools.reduce(lambda holder, key: holder[key], way, value)


WHOLE = EXAMPLE.to_dict()
OF_SCHEMA_1 = json.loads(older(EXAMPLE.to_json()))
PLACES = [place for place in places(WHOLE) if place]


@given(manifests())
def test_valid_manifest(reader, manifest):
    check_same(reader, manifest.to_json())
    check_same(reader, older(manifest.to_json()))


@given(st.data())
def test_edit_with_its_identity_text(reader, data):
    said = json.loads(EXAMPLE.identity_text)
    *way, last = data.draw(st.sampled_from([place for place in places(said) if place]))
    value = data.draw(values)
    within(said, way)[last] = value
    spoilt = copy.deepcopy(WHOLE)
    within(spoilt, way)[last] = value
    spoilt["identity_text"] = json.dumps(said, ensure_ascii=data.draw(st.booleans()))
    check_same(reader, json.dumps(spoilt))


@given(st.data())
@settings(max_examples=300)
def test_spoilt_value(reader, data):
    *way, last = data.draw(st.sampled_from(PLACES))
    before = data.draw(st.sampled_from([WHOLE, OF_SCHEMA_1]))
    spoilt = copy.deepcopy(WHOLE if "identity_text" in (*way, last) else before)
    holder = within(spoilt, way)
    action = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if action == "replace" or not isinstance(holder, dict):
        holder[last] = data.draw(values)
    elif action == "remove":
        del holder[last]
    else:
        holder[data.draw(st.text(letters, max_size=9))] = data.draw(values)
    check_same(reader, json.dumps(spoilt, ensure_ascii=data.draw(st.booleans())))


@given(st.data())
def test_misspelt_field(reader, data):
    holder = data.draw(st.sampled_from([WHOLE, WHOLE["image"], WHOLE["graph"], WHOLE["head"]]))
    name = data.draw(st.sampled_from(sorted(holder)))
    start = data.draw(st.integers(0, len(name)))
    stop = start + data.draw(st.integers(0, 4))
    misspelt = (
        name[:start] + data.draw(st.text(st.sampled_from("aelnst_é'"), max_size=4)) + name[stop:]
    )
    field = next((key for key, value in WHOLE.items() if value is holder), None)
    spoilt = holder | {misspelt: 1}
    check_same(reader, json.dumps(spoilt if field is None else WHOLE | {field: spoilt}))


@given(st.data())
def test_spoilt_text(reader, data):
    text = EXAMPLE.to_json()
    start = data.draw(st.integers(0, len(text)))
    stop = min(len(text), start + data.draw(st.integers(0, 3)))
    json_like = st.text(st.sampled_from('{}[]",:0123456789.eE+-\\utnabdf/ \n\t\x00\ufeff'))
    check_same(reader, text[:start] + data.draw(json_like) + text[stop:])


@given(st.text(st.sampled_from('\\ud8Dc0f{}"n'), max_size=30))
def test_escapes(reader, escaped):
    check_same(reader, json.dumps(WHOLE).replace('"example"', f'"{escaped}"'))
    check_same(reader, json.dumps(OF_SCHEMA_1).replace('"vgg16"', f'"{escaped}"'))


@pytest.mark.parametrize(
    "number",
    ["0.1", "1e-5", "1e22", "1E16", "123456789012345.6", "5e-324", "2.2250738585072011e-308",
     "1.7976931348623157e308", "9007199254740993.0", "1e-7", "0.00001", "100", "-0", "-0.0",
     "1e400", "9007199254740991", "9007199254740992", "01", "1.", ".5", "+1", "0x1"],
)  # fmt: skip
def test_number(reader, number):
    for whole in (WHOLE, OF_SCHEMA_1):
        check_same(reader, json.dumps(whole).replace("0.485", number))
        check_same(reader, json.dumps(whole).replace('"opset": 18', f'"opset": {number}'))


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -(2**63) - 1, -(10**30)])
@pytest.mark.parametrize("place", [(), ("head",), ("image",), ("graph",)], ids=str)
def test_whole_numbers_beyond_64_bits_are_refused_at_the_same_places(reader, place, number):
    for name in within(WHOLE, place):
        spoilt = copy.deepcopy(WHOLE)
        within(spoilt, place)[name] = number
        check_same(reader, json.dumps(spoilt))


def test_the_last_of_duplicates_counts(reader):
    text = EXAMPLE.to_json().replace("{", '{"classes": "six", "name": 1, "name": 2, ', 1)
    assert reader.read(text)["identity"] == EXAMPLE.identity()
    check_same(reader, text)
