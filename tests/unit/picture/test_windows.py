"""Windows of 16-bit levels, as users write them."""

import pytest

from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import parse_window


@pytest.mark.parametrize("text", ["", "5", "1,2,3", "a,b", "0.5,1", "7,7", "9,3"])
def test_a_window_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="found window"):
        parse_window(text)
    assert parse_window("-10, 4095") == (-10, 4095)
