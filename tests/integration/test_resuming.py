"""Going on with what is in the output folder: nothing that is there is lost or done again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tame_deploy import load
from tame_deploy.data.shapes import draw_picture
from tame_deploy.errors import InputError, ManifestError
from tame_deploy.runtime.explain.stream import NamedPicture
from tame_deploy.runtime.jobs.files import FileOptions, explain_files
from tame_deploy.runtime.jobs.sources import Source

BARE = {"pictures": False}


@pytest.fixture(scope="module")
def explainer(demo_export):
    with load(demo_export, backend="onnxruntime", threads=1) as opened:
        yield opened


def named(*names):
    pictures = [NamedPicture(name, np.asarray(draw_picture(len(name))[0])) for name in names]
    return Source(pictures, len(pictures))


def records_in(folder):
    if not (folder / "results.jsonl").exists():
        from pyarrow import parquet

        paths = sorted(folder.glob("results-*.parquet"))
        return [row for path in paths for row in parquet.read_table(path).to_pylist()]
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def files_named_in(records):
    for record in records:
        yield from record.get("maps") or ()
        for explained in record["explained"]:
            yield from (explained[kind] for kind in ("overlay", "panel") if explained.get(kind))


@pytest.mark.parametrize("records", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("drawn", "first", "second"),
    [
        ({}, "a/x.jpg", "b/x.jpg"),
        ({}, "a/x-1.png", "b/x-1.png"),
        ({"maps": "png"}, "a/x-2.png", "b/X-2.PNG"),
        ({**BARE, "maps": "png"}, "a/x.png", "b/x.png"),
        ({**BARE, "maps": "png"}, "x-3-1.png", "b/x-3-1.png"),
    ],
)
def test_what_an_earlier_run_wrote_stays(explainer, tmp_path, records, drawn, first, second):
    if records == "parquet":
        pytest.importorskip("pyarrow")
    explain_files(
        explainer, named(first), tmp_path, options=FileOptions(**drawn, records=records)
    )  # fmt: skip
    earlier = {
        name: (tmp_path / name).read_bytes() for name in files_named_in(records_in(tmp_path))
    }
    again = FileOptions(**drawn, records=records, resume=True)
    explain_files(explainer, named(first, second), tmp_path, options=again)
    found = records_in(tmp_path)
    assert [record["file"] for record in found] == [first, second]
    names = list(files_named_in(found))
    assert len(names) == 2 * len(earlier)
    assert len({name.casefold() for name in names}) == len(names)
    assert all((tmp_path / name).is_file() for name in names)
    assert {name: (tmp_path / name).read_bytes() for name in earlier} == earlier


def test_files_that_have_no_record_are_written_again(explainer, tmp_path):
    """A kill between them left an overlay alone; nothing else will ever name it."""
    (tmp_path / "x-overlay.jpg").write_bytes(b"half of it")
    explain_files(explainer, named("x.png"), tmp_path, options=FileOptions(resume=True))
    (record,) = records_in(tmp_path)
    assert record["explained"][0]["overlay"] == "x-overlay.jpg"
    assert (tmp_path / "x-overlay.jpg").read_bytes() != b"half of it"


def test_only_pictures_that_are_asked_for_count_as_done_before(explainer, tmp_path):
    options = FileOptions(**BARE, resume=True)
    explain_files(explainer, named("a.png", "b.png"), tmp_path, options=options)
    dealt_with = []
    found = explain_files(
        explainer, named("c.png", "b.png"), tmp_path, options=options, advance=dealt_with.append
    )
    assert (found.explained, found.done_before, sum(dealt_with)) == (1, 1, 2)
    broken = Source([NamedPicture("d.png", b"no picture")], 1)
    explain_files(explainer, broken, tmp_path, options=options)
    assert len(records_in(tmp_path)) == 3  # still there


@pytest.mark.parametrize(("first", "second"), [("jsonl", "parquet"), ("parquet", "jsonl")])
def test_records_are_not_mixed(explainer, tmp_path, first, second):
    pytest.importorskip("pyarrow")
    options = FileOptions(**BARE, records=first)
    explain_files(explainer, named("a.png"), tmp_path, options=options)
    message = f"holds records as {first}, not {second}; resume with --records {first}"
    with pytest.raises(InputError, match=message):
        explain_files(
            explainer,
            named("a.png"),
            tmp_path,
            options=FileOptions(**BARE, records=second, resume=True),
        )


@pytest.mark.parametrize("records", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({"maps": "png"}, {"maps": "npz"}, "with --pictures --maps png, not --pictures --maps npz"),
        ({**BARE, "maps": "npz"}, BARE, "with --no-pictures --maps npz, not --no-pictures"),
        (BARE, {**BARE, "maps": "png"}, "with --no-pictures, not --no-pictures --maps png"),
        (BARE, {}, "with --no-pictures, not --pictures"),
    ],
)
def test_a_run_that_wrote_something_else_is_not_gone_on_with(
    explainer, tmp_path, records, first, then, message
):
    if records == "parquet":
        pytest.importorskip("pyarrow")
    options = FileOptions(**first, records=records)
    explain_files(explainer, named("a.png"), tmp_path, options=options)
    found = message.removeprefix("with ").partition(",")[0]
    remedy = f"; resume with {found}, or choose another --output"
    with pytest.raises(InputError, match=f"holds pictures explained {message}{remedy}"):
        explain_files(
            explainer,
            named("a.png"),
            tmp_path,
            options=FileOptions(**then, records=records, resume=True),
        )
    assert len(records_in(tmp_path)) == 1


@pytest.mark.parametrize("line", ['{"other": 1}', "[1]", '{"file": "a", "explained": [3]}', "{"])
def test_records_that_are_none_are_told(explainer, tmp_path, line):
    (tmp_path / "results.jsonl").write_text(f"{line}\n")
    with pytest.raises(ManifestError, match="is no results.jsonl"):
        explain_files(explainer, named("a.png"), tmp_path, options=FileOptions(resume=True))


@pytest.mark.parametrize("records", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {"versus": "ring"}, "--top-k 1, no --versus"),
        ({"class_ids": [1], "versus": 0}, {"class_ids": [1]}, "--versus 0"),
        ({"class_ids": [1], "versus": 0}, {"class_ids": [1], "versus": 2}, "--versus 0"),
        ({"top_k": 2}, {"top_k": 3}, "--top-k 2"),
        ({"top_k": 2}, {}, "--top-k 2"),
        ({"class_ids": [0, 1, 2]}, {"class_ids": [0, 2, 1]}, "--class-id 0 --class-id 1"),
    ],
)
def test_other_questions_are_not_mixed(explainer, tmp_path, records, before, now, told):
    if records == "parquet":
        pytest.importorskip("pyarrow")
    options = FileOptions(**BARE, records=records)
    explain_files(explainer, named("a.png", "bb.png"), tmp_path, **before, options=options)
    again = FileOptions(**BARE, records=records, resume=True)
    with pytest.raises(InputError, match=f"other classes were explained.*{told}.*resume with"):
        explain_files(explainer, named("c.png"), tmp_path, **now, options=again)
    explain_files(explainer, named("c.png"), tmp_path, **before, options=again)
    assert [one["file"] for one in records_in(tmp_path)] == ["a.png", "bb.png", "c.png"]
