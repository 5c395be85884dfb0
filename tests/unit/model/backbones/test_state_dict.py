"""State dicts as wrappers and trainers leave them, fitted to a plain module."""

import pytest
import safetensors.torch
import torch
from torch import nn

from tame_deploy.errors import InputError
from tame_deploy.model.backbones.state_dict import load_file, load_state


class Net(nn.Module):
    """A network with parts that have names."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 5)


def renamed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def same(module, other):
    return all(torch.equal(module.state_dict()[k], t) for k, t in other.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "net.", "model.net.",
     "module.module.model.backbone.", "model._orig_mod."],
)  # fmt: skip
def test_any_prefix_goes(prefix):
    trained, module = Net(1), Net(2)
    assert load_state(module, renamed(prefix, trained.state_dict()), "w.pth") == ()
    assert same(module, trained)


def test_parts_that_were_wrapped_by_themselves_fit():
    trained, module = Net(1), Net(2)
    state = {
        name.replace("stem.", "stem.module.").replace("head.", "head._orig_mod."): tensor
        for name, tensor in trained.state_dict().items()
    }
    load_state(module, renamed("model.", state), "w.pth")
    assert same(module, trained)


def test_a_file_of_what_the_module_wraps_fits():
    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Net(2)

    trained, module = Net(1), Wrapping()
    load_state(module, trained.state_dict(), "w.pth")
    assert same(module.inner, trained)


def test_what_training_keeps_beside_the_network_is_left_out_with_a_note():
    trained, module = Net(1), Net(2)
    beside = {"criterion.weight": torch.ones(5), "train_acc.total": torch.zeros(())}
    for prefix in ("model.", ""):
        state = renamed(prefix, trained.state_dict()) | beside
        (note,) = load_state(module, state, "dir/w.pth")
        assert note == ("left out criterion.weight, train_acc.total of w.pth: not of the backbone")
        assert same(module, trained)


def test_a_part_that_the_network_lacks_is_no_metric():
    state = Net(1).state_dict() | {"attention.weight": torch.ones(3)}
    with pytest.raises(InputError, match="w.pth does not fit the backbone: unknown: attention"):
        load_state(Net(), state, "w.pth")


def test_a_network_whose_head_is_elsewhere_is_refused_by_both_names():
    state = renamed("model.", Net(1).state_dict())
    state["classifier.weight"] = state.pop("model.head.weight")
    with pytest.raises(InputError, match="lacks head.weight; unknown: classifier.weight"):
        load_state(Net(), state, "w.pth")


def test_half_precision_weights_are_computed_in_float32(tmp_path):
    trained, module = Net(1), Net(2)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in trained.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    load_file(module, str(tmp_path / "w.safetensors"))
    assert module.head.weight.dtype == torch.float32
    assert torch.allclose(module.head.weight, trained.head.weight, rtol=1e-2)


@pytest.mark.parametrize(
    ("plain_key", "averaged_key"),
    [("params", "params_ema"), ("state_dict", "state_dict_ema"), ("model", "ema.module")],
)
def test_of_plain_and_averaged_weights_one_is_taken_and_said(tmp_path, plain_key, averaged_key):
    plain, averaged, path = Net(1), Net(2), tmp_path / "w.pth"
    held = averaged.state_dict()
    for key in reversed(averaged_key.split(".")):
        held = {key: held}
    optimizer = torch.optim.Adam(plain.parameters()).state_dict()
    torch.save({**held, plain_key: plain.state_dict(), "optimizer": optimizer, "epoch": 3}, path)
    module = Net(3)
    source, (note,) = load_file(module, str(path))
    assert same(module, plain)
    assert source.source == f"w.pth#{plain_key}"
    assert note == (
        f"took {plain_key} (plain weights) of w.pth; --weights {path}#{averaged_key} takes "
        "the other"
    )
    source, notes = load_file(module, f"{path}#{averaged_key}")
    assert same(module, averaged)
    assert (source.source, notes) == (f"w.pth#{averaged_key}", ())


def test_averaged_weights_among_the_names_of_one_state_dict(tmp_path):
    plain, averaged, path = Net(1), Net(2), tmp_path / "w.ckpt"
    state = renamed("ema_model.module.", averaged.state_dict())
    torch.save({"state_dict": state | renamed("model.", plain.state_dict())}, path)
    module = Net(3)
    _, (note,) = load_file(module, str(path))
    assert same(module, plain)
    assert note.startswith("took model of w.ckpt; --weights")
    load_file(module, f"{path}#ema_model.module")
    assert same(module, averaged)


def test_torchs_averaged_model_fits(tmp_path):
    averaged, path = torch.optim.swa_utils.AveragedModel(Net(1)), tmp_path / "w.pth"
    torch.save(averaged.state_dict(), path)
    module = Net(2)
    _, (note,) = load_file(module, str(path))
    assert same(module, averaged.module)
    assert "left out n_averaged" in note


def test_a_part_that_is_not_there_lists_those_that_are(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": Net().state_dict(), "state_dict_ema": Net().state_dict()}, path)
    with pytest.raises(InputError, match="has no 'ema'; it has state_dict, state_dict_ema"):
        load_file(Net(), f"{path}#ema")


@pytest.mark.parametrize("kind", [torch.uint8, torch.complex64])
def test_numbers_that_are_no_weights_are_refused(kind):
    state = Net(1).state_dict() | {"head.weight": torch.ones(5, 4, dtype=kind)}
    with pytest.raises(InputError, match=f"head.weight holds {kind}, expected floating point"):
        load_state(Net(2), state, "w.pth")


class Branched(Net):
    """A network with a part that is called as googlenet's auxiliary head is."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.aux1 = nn.Linear(4, 5)


def without_branch(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("aux1.")}


def test_a_part_that_is_called_aux1_is_like_any_other():
    state = without_branch(Branched(1).state_dict())
    with pytest.raises(InputError, match="lacks aux1.weight, aux1.bias"):
        load_state(Branched(2), state, "w.pth")
    with pytest.raises(InputError, match=r"shapes: aux1.weight is \[9, 4\], expected \[5, 4\]"):
        load_state(Branched(2), Branched(1).state_dict() | {"aux1.weight": torch.ones(9, 4)}, "w")


@pytest.mark.parametrize(
    "state",
    [
        without_branch(Branched(1).state_dict()),
        Branched(1).state_dict() | {"aux1.weight": torch.ones(9, 4), "aux1.bias": torch.ones(9)},
    ],
    ids=["missing", "of other classes"],
)
def test_auxiliary_heads_that_only_training_uses_need_not_fit(state):
    module = Branched(2)
    module.aux_logits = True  # as torchvision's and timm's say
    assert load_state(module, state, "w.pth") == ()
    assert torch.equal(module.head.weight, Branched(1).head.weight)


def test_auxiliary_heads_that_a_network_lacks_are_left_out():
    module = Net(2)
    load_state(module, Branched(1).state_dict(), "w.pth")
    assert torch.equal(module.head.weight, Branched(1).head.weight)
