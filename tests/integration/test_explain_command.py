"""`explain` as a user meets it: odd folders, odd names, full disks, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tame_deploy import load
from tame_deploy.data.shapes import draw_picture
from tame_deploy.errors import InputError
from tame_deploy.runtime.explain.stream import NamedPicture
from tame_deploy.runtime.jobs.files import FileOptions, explain_files
from tame_deploy.runtime.jobs.sources import Source, open_source
from tests.command_line import one_line, run

PICTURE = Path(__file__).parents[2] / "tame_deploy" / "data" / "pictures" / "ring-1.png"


@pytest.fixture(scope="module")
def explainer(demo_export):
    with load(demo_export, backend="onnxruntime", threads=1) as opened:
        yield opened


def records_in(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def drawn(*names):
    pictures = (
        NamedPicture(name, np.asarray(draw_picture(seed)[0])) for seed, name in enumerate(names)
    )
    return Source(pictures, len(names))


def a_folder_of_all_sorts(folder):
    """Make four pictures, of which two say so by their suffix, and four files that are none."""
    folder.mkdir()
    for name, kind in (("a.jfif", "JPEG"), ("IMG_1", "PNG"), ("b.dat", "WEBP"), ("c.png", "PNG")):
        draw_picture(0)[0].save(folder / name, kind)
    for name in ("notes.TXT", "data.csv", "more.txt"):
        (folder / name).write_text("P6 is not what this is about")
    (folder / "empty").touch()
    return folder


def test_folders_are_searched_by_content_where_names_say_nothing(tmp_path):
    source = open_source([str(a_folder_of_all_sorts(tmp_path / "in"))], "out")
    assert [Path(one.name).name for one in source.pictures] == ["IMG_1", "a.jfif", "b.dat", "c.png"]
    assert source.total == 4
    passed_over = [path.name for path in source.passed_over]
    assert passed_over == ["data.csv", "empty", "more.txt", "notes.TXT"]
    assert source.limited(1).passed_over == source.passed_over
    only_text = tmp_path / "text"
    only_text.mkdir()
    (only_text / "a.txt").touch()
    with pytest.raises(InputError, match=r"no pictures in .*text \(but 1 other file\); expected"):
        open_source([str(only_text)], "out")


def test_a_picture_over_pillows_own_limit_is_not_passed_over(tmp_path, monkeypatch):
    draw_picture(0)[0].resize((60, 40)).save(tmp_path / "large", "PNG")
    draw_picture(0)[0].save(tmp_path / "known.png")
    for limit in (2000, 1000):  # it warns of more than that, and refuses twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        source = open_source([str(tmp_path)], "out")
        assert [Path(one.name).name for one in source.pictures] == ["known.png", "large"]


def test_what_was_passed_over_is_said_at_the_end(demo_export, tmp_path):
    folder = a_folder_of_all_sorts(tmp_path / "in")
    done = run("explain", demo_export, folder, "-o", tmp_path / "out", "--no-pictures")
    assert "explained 4 of 4" in done.stdout
    said = "passed over 4 files that are no pictures (.csv, .txt, no suffix): data.csv, empty, more"
    assert said in done.stderr
    for path in folder.glob("[dem]*"):
        path.unlink()
    done = run("explain", demo_export, folder, "-o", tmp_path / "2", "--no-pictures")
    assert "passed over 1 file that is no picture (.txt): notes.TXT" in done.stderr


def test_long_names_are_cut_between_characters(demo_export, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [62 * "🦜" + ".png", 61 * "🦜" + "é.png", 120 * "é" + "x.png", 245 * "n" + ".png"]
    for seed, name in enumerate(names):
        draw_picture(seed)[0].save(folder / name)
    done = run("explain", demo_export, folder, "-o", tmp_path / "out", "--top-k", 2)
    assert "explained 4 of 4" in done.stdout
    records = records_in(tmp_path / "out")
    assert {Path(record["file"]).name for record in records} == set(names)
    overlays = {record["explained"][1]["overlay"] for record in records}
    cut = {25 * "🦜", 25 * "🦜" + "~2", 50 * "é", 100 * "n"}
    assert overlays == {f"{name}-2-overlay.jpg" for name in cut}
    assert all((tmp_path / "out" / name).is_file() for name in overlays)


@pytest.mark.parametrize("kind", ["-overlay.jpg", "-panel.jpg", "-map.png"])
def test_a_picture_that_cannot_be_written_is_listed_and_the_rest_is_done(explainer, tmp_path, kind):
    (tmp_path / f"b{kind}").mkdir()
    found = explain_files(
        explainer, drawn("a.png", "b.png", "c.png"), tmp_path, options=FileOptions(maps="png")
    )
    assert found.explained == 2
    assert found.unwritten == ["b.png: Is a directory"]
    assert [record["file"] for record in records_in(tmp_path)] == ["a.png", "c.png"]


def test_what_could_not_be_written_is_said_and_the_status_is_one(demo_export, tmp_path):
    (tmp_path / "out" / "ring-1-overlay.jpg").mkdir(parents=True)
    other = PICTURE.with_name("ring-2.png")
    done = run(
        "explain", demo_export, PICTURE, other, "-o", tmp_path / "out", "--overwrite", expect=1
    )
    assert "explained 1 of 2" in done.stdout
    assert f"not written (1):\n  {PICTURE}: Is a directory" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_run(explainer, tmp_path):
    (tmp_path / "b-overlay.jpg").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        explain_files(explainer, drawn("a.png", "b.png", "c.png"), tmp_path)
    assert [record["file"] for record in records_in(tmp_path)] == ["a.png"]


def test_a_folder_that_is_gone_ends_the_run(explainer, tmp_path):
    folder, moved = tmp_path / "out", tmp_path / "moved"
    folder.mkdir()

    def pictures():
        yield from drawn(*(f"{number}.png" for number in range(9))).pictures
        folder.rename(moved)
        yield from drawn("last.png").pictures

    options = FileOptions(batch_size=1, workers=1)
    with pytest.raises(InputError, match=r"cannot write .*out: No such file or directory"):
        explain_files(explainer, Source(pictures(), None), folder, options=options)
    assert 0 < len(records_in(moved)) < 10
    assert not folder.exists()


def test_nothing_but_a_line_is_said_of_a_photograph_that_is_too_large(demo_export, tmp_path):
    draw_picture(0)[0].resize((600, 400)).save(tmp_path / "large.png")
    arguments = ("explain", demo_export, tmp_path / "large.png", "--no-pictures")
    done = run(*arguments, "-o", tmp_path / "1", "--max-pixels", 239_999, expect=1)
    assert "large.png is 600x400; expected at most 239999 pixels" in done.stderr
    run(*arguments, "-o", tmp_path / "2", "--max-pixels", 240_000)


def test_a_url_of_a_picture_is_told_from_a_file(demo_export, tmp_path):
    url = "https://example.com/cat.jpg"
    done = run("explain", demo_export, url, cwd=tmp_path, expect=1)
    assert f"{url} is a URL; pictures are not fetched, so download it first" in one_line(done)


@pytest.mark.parametrize(
    ("artifact", "option", "message"),
    [
        ("grpc://localhost:1/demo", ("--backend", "auto"), "--backend has no meaning for grpc://"),
        ("http://localhost:1", ("--device", 0), "--device has no meaning for http://localhost:1"),
        ("grpcs://localhost:1", ("--threads", 2), "--threads has no meaning"),
        ("here", ("--timeout-s", 60), "--timeout-s is for a server's URL; here is an artifact"),
        ("here", ("--tls-ca", "x.pem"), "--tls-ca is for a server's URL"),
        ("here", ("--token-file", "x"), "--token-file is for a server's URL"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, artifact, option, message):
    done = run("explain", artifact, PICTURE, *option, cwd=tmp_path, expect=1)
    assert message in one_line(done)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_in_good_order_and_the_run_goes_on(demo_export, tmp_path):
    """Paths come by standard input, which stays open: only Ctrl-C can end it."""
    names = [tmp_path / f"{seed}.png" for seed in range(12)]
    for seed, name in enumerate(names):
        draw_picture(seed)[0].save(name)
    # A shell that starts jobs in the background makes them ignore SIGINT.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from tame_deploy.cli import main; main()"
    )
    told = ("-o", "out", "--no-pictures", "--backend", "onnxruntime", "--threads", "1")
    command = [sys.executable, "-c", program, "explain", str(demo_export), "-", *told]
    with subprocess.Popen(
        [*command, "--batch-size", "1", "--workers", "1"], cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdin.write("".join(f"{name}\n" for name in names[:8]))
        process.stdin.flush()
        results, end = tmp_path / "out" / "results.jsonl", time.monotonic() + 120
        while not results.exists() or not results.read_text():
            assert time.monotonic() < end
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "go on with --resume" in said[1]
    assert "Traceback" not in said[1]
    before = len(records_in(tmp_path / "out"))
    assert 0 < before <= 8
    done = run("explain", demo_export, *names, *told, "--resume", cwd=tmp_path)
    assert f"explained {12 - before} of 12" in done.stdout
    assert {record["file"] for record in records_in(tmp_path / "out")} == set(map(str, names))


def test_ctrl_c_before_the_first_picture_is_one_hundred_and_thirty(demo_export, tmp_path):
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tame_deploy.runtime.explain import load\n"
        "def interrupted(*_, **__): signal.raise_signal(signal.SIGINT)\n"
        "load.load = interrupted\n"
        "from tame_deploy.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "explain", str(demo_export), str(PICTURE)]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_window_brings_out_twelve_bits_in_sixteen(tmp_path, demo_export):
    levels = np.asarray(draw_picture(3)[0].convert("L"))
    Image.fromarray(levels).save(tmp_path / "eight.png")
    Image.fromarray(levels.astype(np.uint16) * 16).save(tmp_path / "twelve.png")
    names = [str(tmp_path / name) for name in ("eight.png", "twelve.png")]
    out = ["--no-pictures", "--backend", "onnxruntime", "-o"]
    dim = run("explain", str(demo_export), *names, *out, str(tmp_path / "dim"))
    assert dim.stderr.count("come out nearly black; give it a window, such as 0,4095") == 1
    shown = str(tmp_path / "shown")
    windowed = run("explain", str(demo_export), *names, *out, shown, "--window", "0,4080")
    assert "nearly black" not in windowed.stderr
    eight, twelve = (record["top"] for record in records_in(tmp_path / "shown"))
    assert eight == twelve
