"""What classifiers and layers return is understood, or refused by what was found."""

from collections import namedtuple

import pytest
import torch

from tame_deploy.errors import InputError
from tame_deploy.model.outputs import noting_choice, read_layer, read_logits

LOGITS, OTHER = torch.zeros(2, 3), torch.ones(2, 5, 5)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, OTHER),
        [None, LOGITS],
        {"features": OTHER, "logits": LOGITS},
        {"out": LOGITS, "name": "x"},
        namedtuple("Output", ["aux", "logits"])(OTHER, LOGITS),
    ],
)
def test_logits_are_found(output):
    assert read_logits(output) is LOGITS


class Returning(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self):
        return self.output


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ((LOGITS, LOGITS[:, :2]), ["a tuple of tensors, 3 and 2 wide; the first was taken"]),
        ((LOGITS, LOGITS), []),
        ((LOGITS, OTHER), []),
        (LOGITS, []),
        (namedtuple("Output", ["aux", "logits"])(LOGITS[:, :2], LOGITS), []),
    ],
)
def test_it_is_said_if_another_tensor_may_be_the_logits(output, said, caplog):
    module = Returning(output)
    with caplog.at_level("INFO", "tame_deploy"), noting_choice(module):
        module()
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


def test_a_model_output_of_transformers_is_understood():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    assert read_logits(outputs.ImageClassifierOutput(loss=OTHER, logits=LOGITS)) is LOGITS


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (None, "returns NoneType"),
        (("a", 1), "returns a tuple of str, int"),
        ([], "a list of nothing"),
        ({"a": LOGITS, "b": OTHER}, "a mapping of a, b; expected an entry named logits"),
    ],
)
def test_what_holds_no_logits_is_said(output, found):
    with pytest.raises(InputError, match=found):
        read_logits(output)


def test_of_a_layer_the_first_tensor_counts():
    for output in (OTHER, (OTHER, None), [None, OTHER], {"hidden": OTHER, "other": LOGITS}):
        assert read_layer(output) is OTHER
    assert read_layer((1, 2)) == (1, 2)
