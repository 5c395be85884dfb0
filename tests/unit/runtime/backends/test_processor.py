"""The processor's instruction sets, read from what Linux says of x86 and ARM."""

from __future__ import annotations

import platform

import pytest

from tame_deploy.runtime.backends import processor

XEON = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu {} \n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("text", "instructions", "words"),
    [
        (XEON.format("sse4_2 avx"), "avx", ""),
        (XEON.format("fma avx2 avx"), "avx avx2 fma", "avx2"),
        (XEON.format("avx2 avx_vnni"), "avx2 avx_vnni", "avx2 vnni"),
        (
            XEON.format("amx_int8 amx_tile avx512_vnni avx512bw avx512f avx2"),
            "avx2 avx512f avx512bw avx512_vnni amx_tile amx_int8",
            "avx2 avx512 vnni amx",
        ),
        (
            "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp sve i8mm bf16\n\n",
            "asimd asimdhp asimddp i8mm bf16 sve",
            "neon fp16 dotprod i8mm bf16 sve",
        ),
        ("", "", ""),
        ("nonsense", "", ""),
    ],
)
def test_what_kernels_are_chosen_by_is_found(tmp_path, monkeypatch, text, instructions, words):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", path)
    assert " ".join(processor.instructions()) == instructions
    assert " ".join(processor.instruction_sets()) == words
    if "model name" in text:
        assert processor.processor_name() == "Some CPU @ 2 GHz"


def test_a_system_that_says_nothing_has_a_name_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "none")
    assert processor.instructions() == ()
    assert processor.processor_name() in (platform.processor(), platform.machine())
