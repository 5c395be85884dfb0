"""One number names a class, or one class and not another, and is no other question's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tame_deploy.artifact.contrast import (
    ALONE,
    CAN_CONTRAST,
    LIKELIEST,
    decode_contrast,
    encode_contrast,
    is_question,
)


@st.composite
def questions(draw):
    classes = draw(st.sampled_from([2, 3, 10, 1000, CAN_CONTRAST[-1]]))
    own = draw(st.integers(LIKELIEST, classes - 1))
    return classes, own, draw(st.integers(ALONE, classes - 1))


@given(questions())
def test_what_was_encoded_is_decoded(question):
    classes, own, versus = question
    number = encode_contrast(np.array([own]), versus, classes)
    assert number.dtype == np.int64
    found = decode_contrast(number, classes)
    assert (found[0][0], found[1][0]) == (own, versus)
    assert is_question(number, classes).all()
    assert np.iinfo(np.int32).min <= number[0] < classes


@pytest.mark.parametrize("classes", [2, 5, 17])
def test_no_two_questions_have_one_number_and_other_numbers_mean_nothing(classes):
    every = [
        int(encode_contrast(np.array(own), versus, classes))
        for own in range(LIKELIEST, classes)
        for versus in range(ALONE, classes)
    ]
    assert len(set(every)) == len(every)
    around = np.arange(-2 * (classes + 1) ** 2, 2 * classes)
    assert around[is_question(around, classes)].tolist() == sorted(every)


def test_classes_keep_their_numbers():
    assert encode_contrast(np.array([-1, 0, 4]), ALONE, 5).tolist() == [-1, 0, 4]
    assert not is_question(np.array([5, 6, 2**62, -(2**63)]), 5).any()


def test_the_numbers_are_those_of_the_documents():
    # docs/artifact.md: of 1000 classes, the likeliest and not class 7; class 281 and not class 282.
    assert encode_contrast(np.array([-1, 281]), np.array([7, 282]), 1000).tolist() == [-9, -282566]
