"""What a network's outputs are taken for, and what is asked instead of guessed."""

import pytest
import torch
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.task import Answer, probabilities, settle_task, task_note

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -3.0], [4.0, 0.1, 2.0], [-2.0, 1.0, 1.0]])


def settled(given, /, *, random=False, module=None, **said):
    source = WeightsSource("a test", random=random)
    backbone = Backbone("net", module or nn.Identity(), ImageSpec(), None, source, **said)
    return settle_task(backbone, given)


def test_several_logits_are_classes_unless_somebody_says_otherwise():
    assert settled(LOGITS).task == "multiclass"
    assert settled(LOGITS, task="multilabel").task == "multilabel"
    assert task_note(settled(LOGITS)) is None


def test_a_transformers_configuration_says_the_task():
    module = nn.Linear(1, 1)
    module.config = type("Config", (), {"problem_type": "multi_label_classification"})()
    assert settled(LOGITS, module=module).task == "multilabel"
    assert settled(LOGITS, module=nn.Sequential(module)).task == "multilabel"
    assert settled(LOGITS, module=module, task="multiclass").task == "multiclass"


@pytest.mark.parametrize("outputs", [LOGITS[:, :1], LOGITS[:, 0]])
def test_one_logit_becomes_two_classes_whose_softmax_is_its_sigmoid(outputs):
    found = settled(outputs, task="binary")
    assert (found.task, found.labels) == ("binary", ("negative", "positive"))
    shares = probabilities(Answer("binary", "logits")(outputs), "binary")
    torch.testing.assert_close(shares[:, 1], torch.sigmoid(LOGITS[:, 0]))
    torch.testing.assert_close(shares[:, 0], 1 - torch.sigmoid(LOGITS[:, 0]))


def test_the_one_label_of_a_binary_network_is_what_its_logit_speaks_for():
    source = WeightsSource("a test")
    backbone = Backbone("net", nn.Identity(), ImageSpec(), ("cat",), source, task="binary")
    assert settle_task(backbone, LOGITS[:, :1]).labels == ("not cat", "cat")


def test_a_softmax_is_noticed_and_undone():
    shares = LOGITS.softmax(1)
    found = settled(shares)
    assert (found.task, found.outputs) == ("multiclass", "probabilities")
    assert "softmax" in found.source.source
    assert "probabilities" in task_note(found)
    again = Answer("multiclass", "probabilities")(shares)
    torch.testing.assert_close(probabilities(again, "multiclass"), shares)


def test_a_softmax_that_underflows_stays_finite():
    again = Answer("multiclass", "probabilities")(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(again.softmax(1), torch.tensor([[1.0, 0.0]]))


def test_sigmoids_are_undone_where_the_user_says_that_they_are():
    shares = LOGITS.sigmoid()
    found = settled(shares, task="multilabel", outputs="probabilities")
    assert found.outputs == "probabilities"
    again = Answer("multilabel", "probabilities")(shares)
    torch.testing.assert_close(again, LOGITS, rtol=1e-4, atol=1e-4)
    one = Answer("binary", "probabilities")(shares[:, :1])
    torch.testing.assert_close(one.softmax(1)[:, 1], shares[:, 0])


def test_random_weights_may_give_anything():
    assert settled(LOGITS.sigmoid(), random=True).outputs == "logits"


@pytest.mark.parametrize(
    ("outputs", "said", "message"),
    [
        (LOGITS[:, :1], {}, "gives one logit; pass --task binary"),
        (LOGITS[:, :1], {"task": "multiclass"}, "one logit, which is not multiclass; pass --task"),
        (LOGITS[:, 0], {"task": "multilabel"}, "one logit, which is not multilabel; pass --task"),
        (LOGITS, {"task": "binary"}, "--task binary is for a network of one logit, and this one"),
        (LOGITS.sigmoid(), {}, "in .0, 1.; pass --task multilabel --outputs prob"),
        (LOGITS.sigmoid()[:, :1], {"task": "binary"}, "lie in .0, 1.; pass --outputs"),
        (LOGITS.softmax(1), {"task": "multilabel"}, "outputs sum to 1 for every picture"),
        (LOGITS, {"outputs": "probabilities"}, "the network gives -3 to 4; expected"),
        (LOGITS.sigmoid(), {"outputs": "probabilities"}, "do not sum to 1; pass --task multilabel"),
        (LOGITS[..., None, None], {}, r"gives \[4, 3, 1, 1\] for 4 pictures; expected"),
    ],
)
def test_what_does_not_fit_gets_one_line(outputs, said, message):
    with pytest.raises(InputError, match=message):
        settled(outputs, **said)
