"""The head agrees with the reference, and its folded form with the head."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tame_deploy.artifact.types import VARIANTS, HeadConfig, narrow_widths, variant_config
from tame_deploy.errors import InputError
from tame_deploy.model.folding import AskedClasses, ClassMaps, FoldedBranches
from tame_deploy.model.head import AttentionHead, map_size
from tests.conftest import shared_file

GOLDEN = {
    "tame": "head_TAME.npz",
    "no-skip-no-batchnorm": "head_NoskipNobatchnorm.npz",
    "sigmoid-branch": "head_Sigmoidinfeaturebranch.npz",
    "no-skip": "head_Noskipconnection.npz",
}


def random_head(config: HeadConfig, seed: int = 0) -> AttentionHead:
    """Return a head in eval mode whose batch norms have statistics worth folding."""
    torch.manual_seed(seed)
    head = AttentionHead(config).eval()
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 2.0)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3.0)
    return head


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_golden_values(variant):
    golden = np.load(shared_file(f"golden/{GOLDEN[variant]}"))
    features = [torch.from_numpy(golden[f"feature/{i}"]) for i in range(3)]
    state = {
        name.removeprefix("state/attn."): torch.from_numpy(golden[name])
        for name in golden.files
        if name.startswith("state/")
    }
    head = AttentionHead(variant_config(variant, (8, 16, 32), 1000))
    head.load_state_dict(state)
    head.eval()
    every = head(features)
    class_ids = torch.from_numpy(golden["class_ids"])
    chosen = every[torch.arange(2), class_ids]
    branches = FoldedBranches(head)(features)
    folded = ClassMaps(head)(branches, AskedClasses(class_ids[:, None]))[:, 0]
    for maps in (chosen, folded):
        assert np.abs(maps.numpy() - golden["map_logits"]).max() < 1e-5
        assert np.abs(torch.sigmoid(maps).numpy() - golden["maps"]).max() < 1e-5
    assert np.abs(every.mean((2, 3)).numpy() - golden["map_logits_all_mean"]).max() < 1e-5


@pytest.mark.slow
@settings(deadline=None, max_examples=120)
@given(
    variant=st.sampled_from(list(VARIANTS)),
    narrow=st.none() | st.integers(1, 9),
    channels=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=4, max_size=4),
    classes=st.one_of(st.integers(2, 12), st.just(150)),
    batch=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_folding_changes_nothing(variant, narrow, channels, sizes, classes, batch, seed):
    widths = narrow and tuple(min(narrow, count) for count in channels)
    widths = None if variant == "no-skip" else widths
    config = variant_config(variant, tuple(channels), classes, narrow=widths)
    head = random_head(config, seed)
    shapes = zip(channels, sizes, strict=False)
    features = [torch.randn(batch, width, height, across) for width, (height, across) in shapes]
    class_ids = torch.randint(0, classes, (batch, 3))
    every = head(features)
    expected = every.gather(1, class_ids[..., None, None].expand(-1, -1, *every.shape[2:]))
    branches = FoldedBranches(head)(features)
    scale = max(1.0, float(every.abs().max()))
    maps = ClassMaps(head)
    asked = AskedClasses(class_ids)
    assert torch.allclose(maps(branches, asked), expected, atol=2e-5 * scale)
    assert torch.allclose(maps(branches, None), every, atol=2e-5 * scale)


@pytest.mark.parametrize(
    ("channels", "classes", "parameters"),
    [
        ((256, 512, 512), 1000, 1_874_664),  # vgg16
        ((512, 1024, 2048), 1000, 9_100_776),  # resnet50
        ((768, 768, 768), 1000, 4_081_384),  # vit_b_16
    ],
)
def test_parameter_counts_are_the_published_ones(channels, classes, parameters):
    head = AttentionHead(variant_config("tame", channels, classes))
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters


def test_maps_are_at_most_56_high_and_keep_their_shape():
    assert map_size(28, 28) == (28, 28)
    assert map_size(112, 112) == (56, 56)
    assert map_size(112, 224) == (56, 112)
    assert map_size(500, 1) == (56, 1)


@pytest.mark.parametrize(
    "arguments",
    [((), 10), ((0,), 10), ((4,), 0), ((4,), 10, "classes", True, True)],
)
def test_impossible_heads_are_refused(arguments):
    with pytest.raises(InputError):
        HeadConfig(*arguments)
    with pytest.raises(InputError, match="expected one of tame, no-skip-no-batchnorm"):
        variant_config("tam", (4,), 2)


@pytest.mark.parametrize("width", [(3,), (3, 7), (0, 1), (3, 3, 3)])
def test_a_branch_is_no_wider_than_its_layer(width):
    with pytest.raises(InputError, match="expected one number a layer, from 1 to the layer's"):
        HeadConfig((4, 6), 2, width)


def test_a_narrow_branch_is_told_in_channels_or_as_a_share_of_the_layer():
    assert narrow_widths(16, (40, 64)) == (16, 16)
    assert narrow_widths("16", (40, 64)) == (16, 16)
    assert narrow_widths("1/8", (40, 64, 4)) == (5, 8, 1)
    assert narrow_widths(0.5, (40, 64)) == (20, 32)
    with pytest.raises(InputError, match="width is 50, above the 40 channels of a layer"):
        narrow_widths(50, (40, 64))
    for wrong in ("0", "-1/4", "9/8", 1.5, "wide", "1/0", 0, "1.0", "1/1", "2.0", 2.0):
        with pytest.raises(InputError, match="between 0 and 1, such as 1/8"):
            narrow_widths(wrong, (40, 64))
    with pytest.raises(InputError, match="one channel a class, so they have no --width"):
        variant_config("no-skip", (4,), 2, narrow=(2,))


def test_the_fuser_reads_the_features_beside_a_narrow_branch():
    head = random_head(HeadConfig((4, 6), 3, (1, 2)))
    features = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 8, 8)]
    for conv in head.convs:
        assert conv.out_channels in (1, 2)
    first, second = (head.branch(layer, feature) for layer, feature in enumerate(features))
    assert first[0] is features[0]
    assert [part.shape[1] for part in (*first, *second)] == [4, 1, 6, 2]
    assert head.fuser.in_channels == 13


def test_a_configuration_knows_its_published_name():
    for variant in VARIANTS:
        assert variant_config(variant, (4,), 2).variant == variant
    assert HeadConfig((4,), 2, batch_norm=False).variant == "custom"


@pytest.mark.parametrize("variant", [*VARIANTS, "narrow"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_maps_of_chosen_classes_are_rows_of_all_maps(variant, training, shared):
    name, narrow = ("tame", (2, 3, 1)) if variant == "narrow" else (variant, None)
    config = variant_config(name, (6, 4, 5), 5, narrow=narrow)
    head = random_head(config).train(training).requires_grad_(True)
    features = [
        torch.randn(3, c, s, s) for c, s in zip(head.config.channels, (9, 5, 3), strict=True)
    ]
    class_ids = torch.tensor([4, 0]) if shared else torch.tensor([[1], [0], [4]])
    rows = class_ids.expand(3, -1) if shared else class_ids
    every = head(features)
    expected = every.gather(1, rows[..., None, None].expand(-1, -1, *every.shape[2:]))
    found = head.class_maps(features, class_ids)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    gradients = [
        torch.autograd.grad(maps.square().mean(), list(head.parameters()), retain_graph=True)
        for maps in (expected, found)
    ]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
