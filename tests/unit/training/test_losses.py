"""The loss is the paper's, term by term."""

import dataclasses

import numpy as np
import pytest
import torch

from tame_deploy.errors import InputError
from tame_deploy.training.losses import LossConfig, area, map_losses, variation
from tests.conftest import shared_file


@pytest.mark.parametrize(
    ("maps", "key"),
    [("batch", "total_ce_area_variation"), ("own", "own_class_total_ce_area_variation")],
)
def test_the_terms_are_those_of_the_reference(maps, key):
    golden = np.load(shared_file("golden/loss.npz"))
    masks, labels = torch.tensor(golden["masks"]), torch.tensor(golden["labels"])
    if maps == "own":
        masks = masks[torch.arange(4), torch.arange(4)][:, None]
    terms = map_losses(LossConfig(maps=maps), masks, torch.tensor(golden["logits"]), labels)
    assert [float(term) for term in terms] == pytest.approx(golden[key].tolist(), rel=1e-6)


def test_area_of_a_constant_map_is_its_power():
    assert float(area(torch.full((2, 3, 4, 5), 0.25))) == pytest.approx(0.2505**0.3)


def test_area_has_a_finite_gradient_where_a_map_is_black():
    maps = torch.zeros(1, 1, 3, 3, requires_grad=True)
    area(maps).backward()
    assert torch.isfinite(maps.grad).all()
    assert (maps.grad > 0).all()


def test_variation_of_a_written_out_map():
    maps = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    # One step down, one across; the corner lies in a border row and a border column.
    assert float(variation(maps)) == pytest.approx((1 + 1 + 0.3 * 2) / 2)


@pytest.mark.parametrize("rows", [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
def test_variation_counts_steps_down_and_across(rows):
    # Two steps in one direction, none in the other; four squares in the borders.
    assert float(variation(torch.tensor([[rows]]))) == pytest.approx((2 + 0.3 * 4) / 2)


def test_variation_grows_with_the_labels_of_the_batch():
    maps = torch.rand(4, 1, 7, 7)
    assert float(variation(maps.expand(4, 4, 7, 7))) == pytest.approx(4 * float(variation(maps)))


def test_every_weight_counts():
    torch.manual_seed(0)
    maps, logits, labels = torch.rand(2, 2, 5, 5), torch.randn(2, 3), torch.tensor([0, 2])
    plain = map_losses(LossConfig(), maps, logits, labels).total
    for name in ("cross_entropy", "area", "variation", "area_offset", "area_exponent", "border"):
        config = dataclasses.replace(LossConfig(), **{name: 0.7})
        assert not torch.isclose(map_losses(config, maps, logits, labels).total, plain), name
    assert not torch.isclose(map_losses(LossConfig(), maps, logits, labels, 0.5).total, plain)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"area": -1.0}, "area is -1.0; expected 0 or more"),
        ({"variation": float("nan")}, "variation is nan"),
        ({"area_exponent": 0.0}, "area_exponent is 0.0"),
        ({"maps": "all"}, "maps is 'all'; expected batch or own"),
        ({"area_warmup": 2.0}, "area_warmup is 2.0"),
    ],
)
def test_weights_that_make_no_loss_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        LossConfig(**values)


def test_a_label_of_several_has_a_binary_cross_entropy_of_its_own():
    maps, labels = torch.rand(2, 1, 5, 5), torch.tensor([0, 2])
    logits = torch.tensor([[3.0, 9.0, 1.0], [0.0, 0.0, -2.0]])
    config = LossConfig(cross_entropy=1.0)
    found = map_losses(config, maps, logits, labels, task="multilabel").cross_entropy
    own = torch.tensor([3.0, -2.0])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(own, torch.ones(2))
    torch.testing.assert_close(found, wanted)


def test_the_cross_entropy_of_one_logit_is_a_binary_one():
    logits = torch.tensor([[0.0, 3.0], [0.0, 3.0]])
    maps, labels = torch.rand(2, 1, 5, 5), torch.tensor([1, 0])
    config = LossConfig(cross_entropy=1.0)
    found = map_losses(config, maps, logits, labels, task="binary").cross_entropy
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1], labels.float())
    torch.testing.assert_close(found, wanted)
