"""One strict decoder for the files of an artifact and those of users."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from tame_deploy.artifact.decoding import TOML, decode, parse_object, read_toml
from tame_deploy.errors import InputError, ManifestError


@dataclass(frozen=True)
class Inner:
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.share > 1:
            raise InputError(f"share is {self.share}; expected at most 1")


@dataclass(frozen=True)
class Outer:
    name: str
    sizes: tuple[int, ...] = ()
    port: int | None = 8001
    mode: Literal["fast", "exact"] | None = None
    inner: Inner = field(default_factory=Inner)


def test_whole_numbers_stand_for_floats_and_lists_for_tuples():
    raw = {"name": "a", "sizes": [1, 2], "port": None, "mode": "fast", "inner": {"share": 1}}
    found = decode(Outer, raw, "it")
    assert found == Outer("a", (1, 2), None, "fast", Inner(1.0))
    assert type(found.inner.share) is float


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"nam": "a"}, "unknown key it.nam; did you mean it.name?"),
        ({"\n": 1}, "unknown key it.\\n; known: inner, mode, name, port, sizes"),
        ({}, "it.name is missing"),
        ({"name": 1}, "it.name is 1; expected a string"),
        ({"name": "a", "port": True}, "it.port is True; expected a whole number"),
        ({"name": "a", "sizes": [1, "2"]}, "it.sizes[1] is '2'; expected a whole number"),
        ({"name": "a", "mode": "slow"}, "it.mode is 'slow'; expected one of fast, exact"),
        ({"name": "a", "inner": {"share": "x"}}, "it.inner.share is 'x'; expected a number"),
        ({"name": "a", "inner": {"share": 2**53}}, "expected a number"),
        ({"name": "a", "inner": {"share": 2}}, "it.inner: share is 2.0; expected at most 1"),
        ({"name": "x" * 99, "port": "y" * 99}, f"it.port is '{'y' * 59}; expected"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(raw, message):
    with pytest.raises(ManifestError) as caught:
        decode(Outer, raw, "it")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_users_file_is_refused_as_input_and_in_tomls_words(tmp_path):
    (tmp_path / "it.toml").write_text("name = 'a'\ninner = 3\n")
    with pytest.raises(InputError, match=r"^inner is 3; expected a table$"):
        decode(Outer, read_toml(tmp_path / "it.toml"), "", TOML)
    with pytest.raises(InputError, match=r"^unknown key nam; did you mean name\?$"):
        decode(Outer, {"nam": "a"}, "", TOML)
    with pytest.raises(InputError, match=r"^name is missing$"):
        decode(Outer, {}, "", TOML)


@pytest.mark.parametrize("data", [b"[a\n", b"\xff", b"a = " + b"[" * 5000])
def test_what_is_no_toml_is_one_line(tmp_path, data):
    (tmp_path / "it.toml").write_bytes(data)
    with pytest.raises(InputError, match=r"it.toml is not TOML: .*$"):
        read_toml(tmp_path / "it.toml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot read .*nope.toml: No such file"):
        read_toml(tmp_path / "nope.toml")


def test_json_that_is_no_object_is_refused():
    with pytest.raises(ManifestError, match="it holds a list; expected an object"):
        parse_object("[]", "it")
