"""Which pictures make which step depends on seed and epoch, on nothing else."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.data.labelled import DrawnPictures, FilePictures
from tame_deploy.errors import InputError
from tame_deploy.training.data import EpochBatches, PictureTensors, make_loader, plain_errors

SMALL = ImageSpec(height=24, width=24, resize=32)


def pictures_in(folder, count, broken=()):
    paths = []
    for index in range(count):
        path = folder / f"{index}.png"
        if index in broken:
            path.write_bytes(b"no picture")
        else:
            pixels = np.full((40, 50, 3), index * 10, np.uint8)
            pixels[:, :25] += 5  # left and right differ
            Image.fromarray(pixels).save(path)
        paths.append(path)
    return FilePictures(tuple(paths), (None,) * count)


@given(
    count=st.integers(8, 60),
    size=st.integers(1, 4),
    world=st.integers(1, 2),
    epoch=st.integers(0, 5),
)
def test_processes_share_the_batches_that_one_alone_would_see(count, size, world, epoch):
    alone = list(EpochBatches(count, size * world, epoch=epoch))
    together = [
        EpochBatches(count, size, epoch=epoch, rank=rank, world=world) for rank in range(world)
    ]
    shared = [sorted(itertools.chain(*batches)) for batches in zip(*together, strict=True)]
    assert shared == [sorted(batch) for batch in alone]
    seen = [index for batch in alone for _, index in batch]
    assert len(seen) == len(set(seen))


@given(skip=st.integers(0, 7))
def test_skipped_batches_are_the_first_ones(skip):
    whole = list(EpochBatches(32, 4, epoch=3, seed=9))
    rest = EpochBatches(32, 4, epoch=3, seed=9, skip=skip)
    assert list(rest) == whole[skip:]
    assert len(rest) == len(whole) - skip


def test_epochs_and_seeds_differ():
    orders = [list(EpochBatches(32, 4, epoch=e, seed=s)) for e, s in ((0, 0), (1, 0), (0, 1))]
    indices = [[index for batch in order for _, index in batch] for order in orders]
    assert indices[0] != indices[1] != indices[2] != indices[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_crops_and_flips_do_not_depend_on_the_workers(workers, tmp_path):
    dataset = PictureTensors(DrawnPictures(0, 8), SMALL, 0, random_crop=True, flip=True)
    alone = [dataset[(1, index)][0] for index in range(8)]
    loader = make_loader(dataset, EpochBatches(8, 4, epoch=1, shuffle=False), workers)
    loaded = torch.cat([batch.pixels for batch in loader])
    assert torch.equal(loaded, torch.stack(alone))


def test_crops_and_flips_change_from_epoch_to_epoch(tmp_path):
    dataset = PictureTensors(pictures_in(tmp_path, 1), SMALL, 0, random_crop=True, flip=True)
    views = {dataset[(epoch, 0)][0].numpy().tobytes() for epoch in range(20)}
    assert len(views) > 5
    plain = PictureTensors(pictures_in(tmp_path, 1), SMALL, 0)
    assert torch.equal(plain[(0, 0)][0], plain[(1, 0)][0])


def test_an_unreadable_picture_is_named_and_the_next_one_stands_in(tmp_path):
    dataset = PictureTensors(pictures_in(tmp_path, 4, broken={1, 2}), SMALL, 0)
    pixels, index, problems = dataset[(0, 1)]
    assert index == 3
    assert torch.equal(pixels, dataset[(0, 3)][0])
    assert [number for number, _ in problems] == [1, 2]
    assert "1.png is not a picture" in problems[0][1]


def test_nothing_but_unreadable_pictures_is_an_error(tmp_path):
    dataset = PictureTensors(pictures_in(tmp_path, 3, broken={0, 1, 2}), SMALL, 0)
    with pytest.raises(InputError, match="3 pictures in a row cannot be read, the first: .*1.png"):
        dataset[(0, 1)]


def test_an_error_of_a_loaders_process_is_one_line(tmp_path):
    dataset = PictureTensors(pictures_in(tmp_path, 2, broken={0, 1}), SMALL, 0)
    loader = make_loader(dataset, EpochBatches(2, 2, shuffle=False), workers=1)
    expected = "^2 pictures in a row cannot be read, the first: .*0.png is not a picture[^\n]*$"
    with pytest.raises(InputError, match=expected), plain_errors():
        next(iter(loader))
