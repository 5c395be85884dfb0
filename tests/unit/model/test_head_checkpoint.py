"""Every published form of a head is read; nothing else is, and no code ever runs."""

import argparse
import collections
import fractions
import json
import os
import pathlib
import pickle
import sys
import types

import pytest
import safetensors.torch
import torch

from tame_deploy.artifact.types import VARIANTS, HeadConfig, variant_config
from tame_deploy.errors import InputError
from tame_deploy.model.head_checkpoint import (
    HEAD_PREFIXES,
    METADATA_KEY,
    HeadCheckpoint,
    read_head,
    write_head,
)
from tests.unit.model.test_head import random_head


def head_of(variant="tame"):
    return random_head(variant_config(variant, (4, 6), 7))


def same_state(first, second):
    return all(torch.equal(first.state_dict()[k], v) for k, v in second.state_dict().items())


def test_a_narrow_head_is_read_as_it_was_written(tmp_path):
    head = random_head(variant_config("tame", (4, 6), 7, narrow=(2, 3)))
    path = write_head(HeadCheckpoint(head, "mine", ("a", "b")), tmp_path / "head.safetensors")
    checkpoint = read_head(path)
    assert checkpoint.head.config == head.config
    assert same_state(checkpoint.head, head)


@pytest.mark.parametrize("prefix", HEAD_PREFIXES)
@pytest.mark.parametrize("kind", ["tame", "lightning", "bare", "safetensors"])
def test_published_forms(tmp_path, prefix, kind):
    head = head_of()
    state = {prefix + name: tensor for name, tensor in head.state_dict().items()}
    if prefix.startswith("generic."):
        state |= {"generic.body.conv1.weight": torch.zeros(2)}
        state |= {"generic.arrangement.body.conv1.weight": torch.zeros(2)}
    path = tmp_path / ("head.safetensors" if kind == "safetensors" else "head.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "bare":
        torch.save(collections.OrderedDict(state), path)
    elif kind == "tame":
        optimizer = torch.optim.SGD(head.parameters(), 0.1).state_dict()
        torch.save(
            {"epoch": 3, "global_counter": 9, "state_dict": state, "optimizer": optimizer}, path
        )
    else:
        torch.save(lightning_checkpoint(state), path)
    checkpoint = read_head(path)
    assert checkpoint.head.config == head.config
    assert (checkpoint.backbone, checkpoint.layers) == (None, None)
    assert same_state(checkpoint.head, head)
    assert not checkpoint.head.training


def lightning_checkpoint(state, **hyper_parameters):
    """Return what Lightning stores, with the classes that it pickles beside the weights."""

    class AttributeDict(dict):
        def __init__(self, **items):
            super().__init__(**items)
            raise_if_imported_for_real.append(1)

    raise_if_imported_for_real = []
    AttributeDict.__module__ = "pytorch_lightning.utilities.parsing"
    AttributeDict.__qualname__ = "AttributeDict"
    module = types.ModuleType("pytorch_lightning.utilities.parsing")
    module.AttributeDict = AttributeDict
    sys.modules.setdefault("pytorch_lightning", types.ModuleType("pytorch_lightning"))
    sys.modules.setdefault(
        "pytorch_lightning.utilities", types.ModuleType("pytorch_lightning.utilities")
    )
    sys.modules["pytorch_lightning.utilities.parsing"] = module
    return {
        "epoch": 7,
        "pytorch-lightning_version": "2.0.0",
        "state_dict": collections.OrderedDict(state),
        "hyper_parameters": AttributeDict(lr=0.1, epochs=8, **hyper_parameters),
        "callbacks": {"best": pathlib.PosixPath("/tmp/best.ckpt")},
        "arguments": argparse.Namespace(layers=["a", "b"]),
    }


def save_t_tame(path, prefix="generic.attn_mech.", kind=None, **hyper_parameters):
    """Save a head as T-TAME does, with what it was trained with beside."""
    state = {prefix + name: tensor for name, tensor in head_of(kind or "tame").state_dict().items()}
    saved = lightning_checkpoint(state, train_method="new", **hyper_parameters)
    torch.save(saved, path)
    return path


@pytest.mark.parametrize(
    ("version", "variant", "tokens"),
    [
        ("TAME", "tame", "patch"),
        ("TTAME", "tame", "patch-times-class"),
        ("Noskipconnection", "no-skip", "patch"),
        ("NoskipNobatchnorm", "no-skip-no-batchnorm", "patch"),
        ("Sigmoidinfeaturebranch", "sigmoid-branch", "patch"),
    ],
)
def test_hyper_parameters_of_lightning_say_what_a_head_is(tmp_path, version, variant, tokens):
    path = save_t_tame(
        tmp_path / "misleading_TTAME.ckpt", "generic.attn_mech.1.", variant,
        model_name="vit_b_16", layers=["encoder.9", "encoder.10"], attention_version=version,
    )  # fmt: skip
    checkpoint = read_head(path)
    assert checkpoint.head.config == variant_config(variant, (4, 6), 7, tokens)
    assert checkpoint.backbone == "vit_b_16"
    assert checkpoint.layers == ("encoder.9", "encoder.10")
    assert checkpoint.says_tokens


def test_class_tokens_are_not_multiplied_where_the_network_has_none(tmp_path):
    path = save_t_tame(tmp_path / "h.ckpt", attention_version="TTAME", model_name="vgg16")
    checkpoint = read_head(path)
    assert (checkpoint.head.config.tokens, checkpoint.layers) == ("patch", None)


def test_options_that_contradict_hyper_parameters_are_refused(tmp_path):
    path = save_t_tame(tmp_path / "h.ckpt", attention_version="TAME")
    with pytest.raises(
        InputError, match=r"--tokens patch \(its attention_version is 'TAME'\), not"
    ):
        read_head(path, tokens="patch-times-class")
    with pytest.raises(InputError, match="--variant tame .*not no-skip; leave --variant out"):
        read_head(path, variant="no-skip")
    assert read_head(path, variant="tame", tokens="patch").says_tokens


def test_an_unknown_version_must_be_named(tmp_path):
    path = save_t_tame(tmp_path / "h.ckpt", attention_version="TAttentionV3")
    with pytest.raises(InputError, match="'TAttentionV3'; known are TAME, TTAME,.* --variant"):
        read_head(path)
    checkpoint = read_head(path, variant="tame")
    assert (checkpoint.head.config.variant, checkpoint.says_tokens) == ("tame", False)


@pytest.mark.parametrize("forged", ["\x1b[2J", "two\nlines", "x" * 300, 3])
def test_forged_names_in_hyper_parameters_are_refused(tmp_path, forged):
    path = save_t_tame(tmp_path / "h.ckpt", attention_version="TAME", layers=["a", forged])
    with pytest.raises(InputError, match="hyper_parameters hold .*expected a layer's") as caught:
        read_head(path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_other_hyper_parameters_say_nothing(tmp_path):
    said = {"attention_version": 3, "layers": 4, "model_name": argparse.Namespace()}
    checkpoint = read_head(save_t_tame(tmp_path / "h.ckpt", **said))
    assert (checkpoint.backbone, checkpoint.layers) == (None, None)
    assert not checkpoint.says_tokens
    said["attention_version"] = "TAME"
    checkpoint = read_head(save_t_tame(tmp_path / "h.ckpt", **said))
    assert (checkpoint.backbone, checkpoint.layers) == (None, None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_tame_deploy_writes_says_what_it_is(tmp_path, variant):
    head = head_of(variant)
    path = write_head(HeadCheckpoint(head, "vgg16", ("a", "b")), tmp_path / "new" / "h.safetensors")
    checkpoint = read_head(path)
    assert checkpoint.head.config == head.config
    assert (checkpoint.backbone, checkpoint.layers) == ("vgg16", ("a", "b"))
    assert same_state(checkpoint.head, head)
    assert [p.name for p in path.parent.iterdir()] == ["h.safetensors"]


def test_a_variant_that_shapes_cannot_tell_must_be_named(tmp_path):
    path = tmp_path / "head.pt"
    torch.save(head_of("sigmoid-branch").state_dict(), path)
    assert read_head(path).head.config.variant == "tame"
    assert read_head(path, variant="sigmoid-branch").head.config.activation == "sigmoid"


def test_another_variant_than_the_files_is_refused(tmp_path):
    path = write_head(HeadCheckpoint(head_of(), "vgg16", ("a", "b")), tmp_path / "h.safetensors")
    with pytest.raises(
        InputError, match="head of --variant tame, not no-skip; leave --variant out"
    ):
        read_head(path, variant="no-skip")
    torch.save(head_of("no-skip").state_dict(), tmp_path / "h.pt")
    with pytest.raises(InputError, match="no tame head .*shape: bns.0"):
        read_head(tmp_path / "h.pt", variant="tame")


def test_something_else_lists_what_was_expected_and_found(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(InputError, match=r"found bias, weight; expected convs\.N\.weight.*attn\."):
        read_head(tmp_path / "linear.pt")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, broken):
    state = head_of().state_dict()
    state["fuser.bias"][0] = broken
    torch.save(state, tmp_path / "h.pt")
    with pytest.raises(InputError, match="fuser.bias holds NaN or infinity"):
        read_head(tmp_path / "h.pt")


@pytest.mark.parametrize("change", ["missing", "unexpected", "rank"])
def test_incomplete_heads_are_refused(tmp_path, change):
    state = head_of().state_dict()
    if change == "missing":
        del state["bns.1.running_var"]
    elif change == "unexpected":
        state["convs.7.bias"] = torch.zeros(1)
    else:
        state["convs.0.weight"] = torch.zeros(4)
    torch.save(state, tmp_path / "h.pt")
    with pytest.raises(InputError, match=r"bns\.1\.running_var|convs\.7\.bias|expected 1x1"):
        read_head(tmp_path / "h.pt")


class Attack:
    """Pickles to a call that leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "raw pickle", "hidden in lightning"])
def test_code_in_a_checkpoint_never_runs(tmp_path, form):
    mark, path = tmp_path / "mark", tmp_path / "head.pt"
    attack = {"state_dict": head_of().state_dict(), "extra": Attack(mark)}
    if form == "raw pickle":
        path.write_bytes(pickle.dumps(attack))
    elif form == "hidden in lightning":
        torch.save(lightning_checkpoint(attack["state_dict"]) | {"x": Attack(mark)}, path)
    else:
        torch.save(attack, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match="Nothing of it was run|not a readable") as caught:
        read_head(path)
    assert not mark.exists()
    assert "\n" not in str(caught.value)


def test_a_class_of_an_unknown_package_is_refused_by_name(tmp_path):
    path = tmp_path / "head.pt"
    torch.save({"state_dict": head_of().state_dict(), "x": fractions.Fraction(1, 2)}, path)
    with pytest.raises(InputError, match=r"holds code \(fractions\.Fraction\)"):
        read_head(path)


@pytest.mark.parametrize("name", ["head.pt", "head.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, name, share):
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(head_of().state_dict(), path)
    else:
        write_head(HeadCheckpoint(head_of(), "vgg16", ("a", "b")), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError) as caught:
        read_head(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "described", ["{", "{}", "[]", '{"channels": ["x"], "classes": 1}', "null"]
)
def test_forged_metadata(tmp_path, described):
    path = tmp_path / "h.safetensors"
    safetensors.torch.save_file(head_of().state_dict(), path, {METADATA_KEY: described})
    with pytest.raises(InputError, match="its head metadata cannot be read"):
        read_head(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": [4, 1_000_000]}, "no tame head"),  # 4 TB, were it built before it is judged
        ({"channels": [4, 10**30]}, "metadata cannot be read"),
        ({"activation": "gelu"}, "metadata cannot be read"),
        ({"tokens": "foo"}, "metadata cannot be read"),
    ],
)
def test_metadata_that_contradicts_the_weights(tmp_path, change, message):
    config = HeadConfig((4, 6), 7)
    described = config.__dict__ | {"backbone": "x", "layers": ["a", "b"]} | change
    path = tmp_path / "h.safetensors"
    metadata = {METADATA_KEY: json.dumps(described)}
    safetensors.torch.save_file(head_of().state_dict(), path, metadata)
    with pytest.raises(InputError, match=message):
        read_head(path)


def test_a_head_without_branches_is_read_again(tmp_path):
    config = HeadConfig((4,), 7, batch_norm=False, skip=False, branch="identity")
    head = random_head(config)
    path = write_head(HeadCheckpoint(head, "x", ("a",)), tmp_path / "h.safetensors")
    found = read_head(path)
    assert found.head.config == config
    assert same_state(found.head, head)
    with pytest.raises(InputError, match="holds a head of --variant cam, not tame"):
        read_head(path, variant="tame")


def test_a_file_that_does_not_say_which_branches_has_attention(tmp_path):
    path = write_head(HeadCheckpoint(head_of(), "x", ("a", "b")), tmp_path / "h.safetensors")
    with safetensors.safe_open(path, "pt") as opened:
        described = json.loads(opened.metadata()[METADATA_KEY])
    assert described.pop("branch") == "attention"
    metadata = {METADATA_KEY: json.dumps(described)}
    safetensors.torch.save_file(head_of().state_dict(), path, metadata)
    assert read_head(path).head.config == head_of().config


def test_writing_never_replaces_unasked(tmp_path):
    checkpoint = HeadCheckpoint(head_of(), "x", ("a", "b"))
    path = write_head(checkpoint, tmp_path / "h.safetensors")
    with pytest.raises(InputError, match="pass --overwrite"):
        write_head(checkpoint, path)
    write_head(checkpoint, path, overwrite=True)
    with pytest.raises(InputError, match="end its name in .safetensors"):
        write_head(checkpoint, tmp_path / "h.pt", overwrite=True)
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_head(checkpoint, tmp_path / "d.safetensors", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.safetensors", "h.safetensors"]


def test_writing_where_one_cannot(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_head(HeadCheckpoint(head_of(), "x", ("a", "b")), "/proc/head.safetensors")
