"""Labelled pictures are found where users keep them, and what is wrong is said."""

import numpy as np
import pytest
import torch
from PIL import Image

from tame_deploy.data.labelled import TorchvisionPictures
from tame_deploy.data.sources import PictureSource, check_share, open_pictures
from tame_deploy.errors import InputError


def picture(path, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(path)
    return path


def opened(data, classes=3, labels=None, **options):
    return open_pictures(PictureSource(str(data), **options), classes, labels)


def test_class_folders_are_numbered_in_order_or_matched_by_name(tmp_path):
    for name in ("cat", "ant", "bee"):
        picture(tmp_path / name / "1.png")
    plain = opened(tmp_path)
    assert [(plain.name(i).split("/")[-2], plain.label(i)) for i in range(3)] == [
        ("ant", 0), ("bee", 1), ("cat", 2),
    ]  # fmt: skip
    named = opened(tmp_path, 4, ["dog", "Cat", "bee", "ant"])
    assert [named.label(i) for i in range(3)] == [3, 2, 1]


def test_class_folders_of_which_only_some_bear_a_class_name_are_refused(tmp_path):
    for name in ("ant", "bee", "catt"):
        picture(tmp_path / name / "1.png")
    with pytest.raises(InputError, match="2 of 3 class folders bear .* catt of none or of several"):
        opened(tmp_path, 3, ["ant", "bee", "cat"])
    with pytest.raises(InputError, match="1 of 3 class folders .* ant, catt of none or of several"):
        opened(tmp_path, 3, ["ant", "bee", "ant"])


def test_class_folders_of_some_classes_have_no_known_labels(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / name / "1.png")
    assert [opened(tmp_path).label(i) for i in range(2)] == [None, None]


def test_more_class_folders_than_classes_are_refused(tmp_path):
    for name in "abcd":
        picture(tmp_path / name / "1.png")
    with pytest.raises(InputError, match=r"found 4 class folders \(a, b, c …\) for a .* 3 classes"):
        opened(tmp_path)


def test_a_folder_without_class_folders_has_no_labels(tmp_path):
    picture(tmp_path / "x.jpg")
    found = opened(tmp_path)
    assert (len(found), found.label(0)) == (1, None)


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", "])
def test_list_files_of_paths_and_labels(tmp_path, separator):
    picture(tmp_path / "my cats" / "1.png")
    picture(tmp_path / "2.png")
    lines = [f"my cats/1.png{separator}2", f"2.png{separator}0", ""]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = opened(tmp_path / "list.txt")
    assert [found.label(i) for i in range(2)] == [2, 0]
    assert found.image(0).size == (20, 10)


def test_a_list_file_may_have_a_header_and_its_own_root(tmp_path):
    picture(tmp_path / "pictures" / "1.png")
    (tmp_path / "list.csv").write_text("file,class_id\n1.png,1\n")
    found = opened(tmp_path / "list.csv", root=str(tmp_path / "pictures"))
    assert (len(found), found.label(0)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no pictures"),
        ("1.png 3", "line 1: label 3 is out of range; expected 0 to 2 .1 lines"),
        ("1.png -1", "line 1: label -1 is out of range"),
        ("1.png 0\n1.png", "line 2: found '1.png'; expected `path label`"),
        ("1.png cat", "line 1: found '1.png cat'"),
        ("gone.png 0", "1 of 1 pictures are missing or unreadable, more than 5%"),
    ],
)
def test_what_is_wrong_with_a_list_file_is_said(tmp_path, text, message):
    picture(tmp_path / "1.png")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "list.txt")


def test_missing_pictures_are_listed_and_left_out_up_to_the_limit(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "list.txt").write_text("1.png 0\ngone.png 1\n")
    with pytest.raises(InputError, match="1 of 2 .* more than 5% .*max_unreadable.*gone.png: no"):
        opened(tmp_path / "list.txt")
    found = opened(tmp_path / "list.txt", max_unreadable=0.5)
    assert len(found) == 1
    assert "gone.png" in found.missing[0]


def test_the_limit_counts_a_share():
    check_share(["a"], 20, 0.05)
    with pytest.raises(InputError, match="2 of 20"):
        check_share(["a", "b"], 20, 0.05)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "no data at nowhere; expected a folder"),
        ("demo:", "found demo:; expected demo:COUNT"),
        ("demo:0", "found demo:0"),
        ("demo-held-out:x", "found demo-held-out:x"),
        ("torchvision:Nope", "torchvision has no data set 'Nope'"),
        ("torchvision:os", "torchvision has no data set 'os'"),
        ("torchvision:CIFAR10:val", "CIFAR10 has no split 'val'; expected train or test"),
        ("torchvision:CIFAR10", "cannot open torchvision's CIFAR10 .*--data-root"),
    ],
)
def test_data_that_is_not_there(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        opened(data, classes=10)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no pictures in"):
        opened(tmp_path)


def test_drawn_pictures_are_labelled_for_a_classifier_of_their_classes():
    assert opened("demo:4", 1000).label(1) is None
    seen, held_out = opened("demo:4", 6), opened("demo-held-out:4", 6)
    assert [seen.label(i) for i in range(4)] == [0, 1, 2, 3]
    assert not np.array_equal(np.asarray(seen.image(0)), np.asarray(held_out.image(0)))
    assert seen.mask(0).shape == (128, 128)


def test_a_torchvision_data_set_gives_pictures_and_labels():
    found = opened("torchvision:FakeData", classes=10)
    assert len(found) == 1000
    assert 0 <= found.label(5) < 10
    assert found.image(5).mode == "RGB"
    with pytest.raises(InputError, match="FakeData has no splits; found 'train'"):
        opened("torchvision:FakeData:train", classes=10)


class Shared:
    """What torchvision's data sets look like from outside."""

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        if index == 1:
            raise OSError("cannot identify image file")
        return Image.new("RGB", (9, 9)), self.targets[index]


def test_targets_may_be_a_tensor_and_broken_pictures_are_named():
    found = TorchvisionPictures("torchvision:It", Shared(torch.tensor([4, 2])))
    assert [found.label(index) for index in range(2)] == [4, 2]
    with pytest.raises(InputError, match=r"torchvision:It\[1\] cannot be read: cannot identify"):
        found.image(1)
    assert TorchvisionPictures("it", Shared([4, 2]), labelled=False).label(0) is None


def test_masks_are_matched_by_name(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "pictures" / f"{name}.jpg")
    mask = Image.new("L", (20, 10))
    mask.putpixel((3, 2), 255)
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "a.png")
    found = opened(tmp_path / "pictures", masks=str(tmp_path / "masks"))
    assert np.argwhere(found.mask(0)).tolist() == [[2, 3]]
    assert found.mask(1) is None


def test_of_a_mask_counts_what_is_opaque_and_any_level_but_zero(tmp_path):
    clear = Image.new("RGBA", (20, 10), (255, 255, 255, 0))
    clear.putpixel((3, 2), (255, 0, 0, 255))
    levels = np.zeros((10, 20), np.uint16)
    levels[2, 3] = 1
    for name, mask in (("a.png", clear), ("b.png", Image.fromarray(levels))):
        picture(tmp_path / "pictures" / name)
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / name)
    found = opened(tmp_path / "pictures", masks=str(tmp_path / "masks"))
    for index in range(2):
        assert np.argwhere(found.mask(index)).tolist() == [[2, 3]]


def test_masks_of_pictures_that_share_a_name_are_matched_by_folder(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        picture(tmp_path / "pictures" / name / "1.jpg")
        mask = Image.new("L", (20, 10))
        mask.putpixel((number, 0), 255)
        (tmp_path / "masks" / name).mkdir(parents=True)
        mask.save(tmp_path / "masks" / name / "1.png")
    found = opened(tmp_path / "pictures", masks=str(tmp_path / "masks"))
    assert [int(found.mask(index).argmax()) for index in range(2)] == [0, 1]
    (tmp_path / "masks" / "1.png").write_bytes((tmp_path / "masks/cat/1.png").read_bytes())
    (tmp_path / "masks" / "dog" / "1.png").unlink()
    with pytest.raises(InputError, match="2 masks or boxes and 2 pictures are called 1"):
        opened(tmp_path / "pictures", masks=str(tmp_path / "masks"))


def test_boxes_may_name_paths(tmp_path):
    for name in ("cat", "dog"):
        picture(tmp_path / "pictures" / name / "1.jpg")
    (tmp_path / "boxes.csv").write_text("cat/1.jpg,0,0,1,1\ndog/1.jpg,0,0,2,2\n")
    found = opened(tmp_path / "pictures", boxes=str(tmp_path / "boxes.csv"))
    assert [int(found.mask(index).sum()) for index in range(2)] == [1, 4]


def test_boxes_are_filled_and_several_make_one_mask(tmp_path):
    picture(tmp_path / "pictures" / "a.jpg")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,left,top,right,bottom\na.jpg,0,0,2,1\na.jpg,18,8,30,30\n")
    mask = opened(tmp_path / "pictures", boxes=str(boxes)).mask(0)
    assert mask[0, :2].all()
    assert mask[8:, 18:].all()
    assert mask.sum() == 2 + 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.jpg,0,0,1,1", "has nothing for any of the pictures; .* such as a.jpg"),
        ("a.jpg,0,0,1,1\na.jpg,0,0,1", "line 2: found 'a.jpg,0,0,1'; expected path,left"),
        ("a.jpg,5,0,5,1", "line 1: the box is empty"),
    ],
)
def test_what_is_wrong_with_boxes_is_said(tmp_path, text, message):
    picture(tmp_path / "pictures" / "a.jpg")
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "pictures", boxes=str(tmp_path / "boxes.csv"))


def test_masks_and_boxes_exclude_each_other_and_drawn_pictures(tmp_path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="both --masks and --boxes"):
        opened(tmp_path, masks="x", boxes="y")
    with pytest.raises(InputError, match="for pictures in files, not demo:4"):
        opened("demo:4", classes=6, masks="x")
    with pytest.raises(InputError, match="--masks nope is no folder"):
        opened(tmp_path, masks="nope")
