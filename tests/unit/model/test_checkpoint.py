"""Files that hold no weights are refused in one line. What is read, heads show: see their tests."""

import zipfile

import pytest
import torch

from tame_deploy.errors import InputError
from tame_deploy.model.checkpoint import read_state


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        read_state(tmp_path / "missing.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="truncated or no checkpoint"):
        read_state(tmp_path / "a.pt")
    torch.save([1, 2, 3], tmp_path / "b.pt")
    with pytest.raises(InputError, match="holds list without tensors"):
        read_state(tmp_path / "b.pt")
