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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs_are_refused_by_name_with_what_to_do(tmp_path):
    network = torch.nn.Linear(2, 2)
    torch.jit.trace(network, torch.zeros(1, 2)).save(tmp_path / "script.pt")
    with pytest.raises(
        InputError, match="script.pt is TorchScript, a program and not a state dict; .*state_dict"
    ):
        read_state(tmp_path / "script.pt")
    torch.export.save(torch.export.export(network, (torch.zeros(1, 2),)), tmp_path / "program.pt2")
    with pytest.raises(InputError, match="program.pt2 is a program of torch.export"):
        read_state(tmp_path / "program.pt2")


@pytest.mark.parametrize(
    "form",
    [
        lambda state: {"params": state},
        lambda state: {"net": state, "optimizer": {"state": {"step": torch.zeros(())}}},
        lambda state: {"model": {"state_dict": state}, "epoch": 3},
        lambda state: {"encoder_q": state, "queue": torch.zeros(1)},
    ],
)
def test_weights_are_found_under_whatever_key_they_are(tmp_path, form):
    state = torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict()
    torch.save(form(state), tmp_path / "w.pt")
    assert read_state(tmp_path / "w.pt")[0].keys() == state.keys()
