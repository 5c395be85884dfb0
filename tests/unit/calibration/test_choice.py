import numpy as np
import pytest
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom, choose_pictures, prepared
from tame_deploy.data.labelled import DrawnPictures, FilePictures
from tame_deploy.errors import InputError

IMAGE = ImageSpec(32, 32, 36)


def drawn(count):
    return PicturesToChooseFrom(DrawnPictures(0, count), f"demo:{count}", IMAGE)


def in_files(folder, count):
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        paths.append(folder / f"{number:02}.png")
        Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(paths[-1])
    return paths


def test_the_seed_alone_decides_and_sets_are_disjoint():
    first, _ = choose_pictures(drawn(30), 8, 0)
    again, _ = choose_pictures(drawn(30), 8, 0)
    other, _ = choose_pictures(drawn(30), 8, 1)
    rest, _ = choose_pictures(drawn(30), 100, 0, least=20, beside=first)
    assert first == again != other
    assert not set(first.sha256) & set(rest.sha256)
    assert len(rest) == 22


def test_a_picture_that_is_there_twice_is_never_on_both_sides(tmp_path):
    paths = in_files(tmp_path, 10)
    for path in paths[:5]:
        (tmp_path / f"copy-{path.name}").write_bytes(path.read_bytes())
    every = tuple(sorted(tmp_path.glob("*.png")))
    source = PicturesToChooseFrom(FilePictures(every, (None,) * 15), "folder", IMAGE)
    first, _ = choose_pictures(source, 5, 0)
    rest, _ = choose_pictures(source, 100, 0, least=1, beside=first)
    assert len({*first.sha256, *rest.sha256}) == len(first) + len(rest) == 10


def test_too_few_pictures_are_counted_and_named():
    with pytest.raises(InputError, match="found 6 different pictures in demo:6; expected 10"):
        choose_pictures(drawn(6), 10, 0)
    first, _ = choose_pictures(drawn(6), 6, 0)
    with pytest.raises(
        InputError, match="found 0 .* besides the 6 .* at least 4.*--calibration-size"
    ):
        choose_pictures(drawn(6), 10, 0, least=4, beside=first)


def test_an_unreadable_picture_is_reported_and_another_taken(tmp_path):
    paths = in_files(tmp_path, 40)
    paths[3].write_bytes(b"no picture")
    source = PicturesToChooseFrom(FilePictures(tuple(paths), (None,) * 40), "folder", IMAGE)
    chosen, unreadable = choose_pictures(source, 39, 0)
    assert len(chosen) == 39
    assert len(unreadable) == 1
    assert "03.png" in unreadable[0]


def test_a_picture_that_changes_meanwhile_is_noticed(tmp_path):
    paths = in_files(tmp_path, 4)
    source = PicturesToChooseFrom(FilePictures(tuple(paths), (None,) * 4), "folder", IMAGE)
    chosen, _ = choose_pictures(source, 4, 0)
    assert prepared(source, chosen).shape == (4, 32, 32, 3)
    Image.new("RGB", (40, 40)).save(paths[2])
    with pytest.raises(InputError, match="02.png has changed"):
        prepared(source, chosen)
