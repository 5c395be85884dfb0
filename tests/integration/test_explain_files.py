"""Explaining many pictures: lists, videos, shards, and going on after a stop."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tame_deploy import load
from tame_deploy.data.shapes import draw_picture
from tame_deploy.errors import InputError, ManifestError
from tame_deploy.runtime.explain.stream import NamedPicture
from tame_deploy.runtime.jobs.files import FileOptions, explain_files
from tame_deploy.runtime.jobs.records import Records, recorded_names
from tame_deploy.runtime.jobs.sources import Source, open_source
from tests.command_line import one_line, run

BARE = {"pictures": False}


@pytest.fixture(scope="module")
def explainer(demo_export):
    with load(demo_export, backend="onnxruntime", threads=1) as opened:
        yield opened


def drawn(count, names="picture-{}.png"):
    pictures = (
        NamedPicture(names.format(seed), np.asarray(draw_picture(seed)[0])) for seed in range(count)
    )
    return Source(pictures, count)


def lines_in(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_maps_lie_in_shards_beside_their_records(explainer, tmp_path):
    options = FileOptions(**BARE, maps="npz")
    summary = explain_files(explainer, drawn(5), tmp_path, top_k=2, options=options)
    assert (summary.explained, summary.sheet) == (5, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps-00000.npz", "results.jsonl"]
    expected = explainer.explain([np.asarray(draw_picture(3)[0])], top_k=2)
    record = lines_in(tmp_path)[3]
    with np.load(tmp_path / record["map_shard"]) as shard:
        assert shard["files"][record["map_index"]] == "picture-3.png"
        assert shard["class_ids"][3].tolist() == expected.class_ids[0].tolist()
        np.testing.assert_allclose(shard["maps"][3], expected.maps[0], atol=1e-5)


def test_a_full_shard_is_written_at_once(explainer, tmp_path):
    pictures = list(drawn(5).pictures)
    with Records(tmp_path, "jsonl", keeps_maps=True, shard=2) as records:
        for number, one in enumerate(pictures, 1):
            records.add({"file": one.name}, explainer.explain(one.source)[0])
            assert len(list(tmp_path.glob("maps-*.npz"))) == number // 2
            assert len(lines_in(tmp_path)) == number - number % 2  # no record without its map
    assert len(list(tmp_path.glob("maps-*.npz"))) == 3
    assert [record["map_index"] for record in lines_in(tmp_path)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("records", ["jsonl", "parquet"])
def test_a_run_that_starts_anew_leaves_nothing_of_a_longer_one(explainer, tmp_path, records):
    before = FileOptions(**BARE, maps="npz", records="parquet")
    explain_files(explainer, drawn(5), tmp_path, options=before)
    (tmp_path / "notes.txt").write_text("somebody's")
    explain_files(explainer, drawn(2), tmp_path, options=FileOptions(**BARE, records=records))
    assert len(recorded_names(tmp_path, records).pictures) == 2
    assert (tmp_path / "notes.txt").is_file()
    assert not list(tmp_path.glob("maps-*"))


def test_one_frame_in_so_many_is_of_videos(tmp_path):
    with pytest.raises(InputError, match="every is 3, which is for videos and cameras"):
        open_source([str(tmp_path)], "out", every=3)


def test_maps_as_pictures(explainer, tmp_path):
    options = FileOptions(**BARE, maps="png")
    explain_files(explainer, drawn(2), tmp_path, class_ids=[1, 4], options=options)
    names = lines_in(tmp_path)[1]["maps"]
    assert names == ["picture-1-1-map.png", "picture-1-2-map.png"]
    with Image.open(tmp_path / names[0]) as heat:
        assert heat.mode == "L"
        assert heat.getextrema() == (0, 255)


def test_parquet_has_what_json_lines_have(explainer, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    lines, tables = tmp_path / "lines", tmp_path / "tables"
    for folder, records in ((lines, "jsonl"), (tables, "parquet")):
        folder.mkdir()
        explain_files(
            explainer, drawn(3), folder, options=FileOptions(**BARE, records=records)
        )  # fmt: skip
    assert parquet.read_table(tables / "results-00000.parquet").to_pylist() == lines_in(lines)
    assert recorded_names(tables, "parquet") == recorded_names(lines, "jsonl")


@pytest.mark.parametrize("records", ["jsonl", "parquet"])
@pytest.mark.parametrize("maps", [None, "npz"])
def test_a_run_that_was_stopped_goes_on(explainer, tmp_path, records, maps):
    if records == "parquet":
        pytest.importorskip("pyarrow")

    def interrupted():
        yield from drawn(18).pictures
        raise KeyboardInterrupt

    options = FileOptions(**BARE, records=records, maps=maps, batch_size=1, workers=1)
    first = explain_files(explainer, Source(interrupted(), 20), tmp_path, options=options)
    assert first.stopped
    assert 0 < first.explained <= 18
    again = FileOptions(**BARE, records=records, maps=maps, resume=True)
    asked = []
    second = explain_files(explainer, drawn(20), tmp_path, options=again, advance=asked.append)
    assert second.done_before == first.explained
    assert first.explained + second.explained == 20
    assert sum(asked) == 20
    names = recorded_names(tmp_path, records).pictures
    assert names == {f"picture-{seed}.png" for seed in range(20)}
    third = explain_files(explainer, drawn(20), tmp_path, options=again)
    assert (third.explained, third.done_before) == (0, 20)


def test_a_line_that_a_kill_left_torn_is_explained_again(explainer, tmp_path):
    options = FileOptions(**BARE, resume=True)
    explain_files(explainer, drawn(3), tmp_path, options=options)
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    found = explain_files(explainer, drawn(3), tmp_path, options=options)
    assert (found.done_before, found.explained) == (2, 1)
    assert path.read_bytes() == whole
    path.write_text('{"other": 1}\n')
    with pytest.raises(ManifestError, match="no results.jsonl"):
        explain_files(explainer, drawn(3), tmp_path, options=options)


def test_resumed_overlays_do_not_replace_the_first_ones(explainer, tmp_path):
    explain_files(explainer, drawn(2, "a/{}.png"), tmp_path, options=FileOptions())
    explain_files(explainer, drawn(2, "b/{}.png"), tmp_path, options=FileOptions(resume=True))
    names = [record["explained"][0]["overlay"] for record in lines_in(tmp_path)]
    assert names == ["0-overlay.jpg", "1-overlay.jpg", "0~2-overlay.jpg", "1~2-overlay.jpg"]


def write_video(path, count=6):
    cv2 = pytest.importorskip("cv2")
    size = draw_picture(0)[0].size
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for seed in range(count):
        writer.write(cv2.cvtColor(np.asarray(draw_picture(seed)[0]), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_a_video_is_explained_frame_by_frame(explainer, tmp_path):
    video = write_video(tmp_path / "clip.avi")
    source = open_source([str(video)], "out", every=2)
    assert source.total == 3
    frames = list(source.pictures)
    assert [frame.name for frame in frames] == [f"{video}#{number}" for number in (0, 2, 4)]
    difference = frames[1].source.astype(int) - np.asarray(draw_picture(2)[0])
    assert np.abs(difference).mean() < 8  # the right frame, in RGB, but for the compression
    (tmp_path / "out").mkdir()
    explain_files(
        explainer, open_source([str(video)], "out"), tmp_path / "out", options=FileOptions(**BARE)
    )
    assert lines_in(tmp_path / "out")[5]["file"] == f"{video}#5"


def test_what_is_no_video_is_told(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "bad.mp4").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"bad.mp4 cannot be opened as a video"):
        open_source([str(tmp_path / "bad.mp4")], "out")
    with pytest.raises(InputError, match=r"gone.mp4 is not there"):
        open_source([str(tmp_path / "gone.mp4")], "out")
    with pytest.raises(InputError, match="found a webcam beside other pictures"):
        open_source(["x.png"], "out", webcam=0)
    with pytest.raises(InputError, match="webcam 99 cannot be opened"):
        list(open_source([], "out", webcam=99).pictures)
    with pytest.raises(InputError, match="found nothing to explain"):
        open_source([], "out")


def test_paths_are_read_as_they_come():
    asked = []

    def lines():
        for name in ("a.png\n", "\n", "b c.png\r\n"):
            asked.append(name)
            yield name

    source = open_source([], "out", paths=lines())
    assert source.total is None
    found = iter(source.pictures)
    assert next(found).name == "a.png"
    assert len(asked) == 1
    assert [one.source for one in found] == ["b c.png"]
    assert open_source([], "out", paths=lines()).limited(1).total == 1


def test_the_command_takes_lists_limits_and_resumes(demo_export, tmp_path):
    for seed in range(4):
        draw_picture(seed)[0].save(tmp_path / f"{seed}.png")
    bare = ("--no-pictures", "-o", tmp_path / "out", "--backend", "onnxruntime")
    done = run("explain", demo_export, tmp_path, *bare, "--limit", 2, "--maps", "npz")
    assert "explained 2 of 2 pictures" in done.stdout
    done = run("explain", demo_export, tmp_path, *bare, "--resume", "--maps", "npz")
    assert "explained 2 of 4 pictures with onnxruntime on CPU, 2 were done before" in done.stdout
    assert len(list((tmp_path / "out").glob("maps-*.npz"))) == 2
    for wrong in ([], [tmp_path, "--webcam", 0]):
        one_line(run("explain", demo_export, *wrong, *bare, "--overwrite", expect=1))
