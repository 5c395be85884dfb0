"""Names of classes from files."""

import pytest

from tame_deploy.errors import InputError
from tame_deploy.model.backbones.labels import read_labels


def test_a_file_has_a_name_a_line(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\nred dog\n\n".encode())
    assert read_labels(str(tmp_path / "names.txt"), None) == ("cat", "red dog")


@pytest.mark.parametrize(("text", "line"), [("cat\n\ndog\n", 2), ("", 1)])
def test_a_line_without_a_name_is_refused(tmp_path, text, line):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(InputError, match=f"line {line} is empty; expected a name a line"):
        read_labels(str(tmp_path / "names.txt"), None)


def test_a_file_that_is_not_there_is_told_in_words(tmp_path):
    with pytest.raises(InputError, match=r"gone.txt: No such file or directory$"):
        read_labels(str(tmp_path / "gone.txt"), None)
