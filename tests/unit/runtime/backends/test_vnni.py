"""Whether this processor's integer kernels saturate, as far as its flags say."""

import platform

import pytest

from tame_deploy.runtime.backends import processor, vnni


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("x86_64", "processor\t: 0\nflags\t\t: fpu avx avx2 fma\n", True),
        ("AMD64", "flags\t\t: avx2 avx512f avx512bw avx512vl\n", True),
        ("x86_64", "flags\t\t: avx2 avx512f avx512_vnni\n", False),
        ("x86_64", "flags\t\t: avx2 avx_vnni\n", False),
        ("x86_64", "nothing about it\n", False),
        ("aarch64", "Features\t: fp asimd\n", False),
    ],
)
def test_x86_without_vnni_saturates(tmp_path, monkeypatch, machine, text, expected):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", path)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert vnni.saturates() is expected


def test_where_the_system_says_nothing_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "none")
    assert not vnni.saturates()
