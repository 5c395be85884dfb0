"""The processor: its name, and the instruction sets that inference libraries choose kernels by."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from tame_deploy.artifact.manifest import Manifest

__all__ = [
    "instruction_sets",
    "instructions",
    "made_for",
    "needed_instruction_sets",
    "processor_and_sets",
    "processor_name",
]

_CPUINFO = Path("/proc/cpuinfo")

#: What kernels are chosen by, as /proc/cpuinfo spells it, and the usual word for it.
_WORDS = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512",
    "avx512bw": "avx512",
    "avx512vl": "avx512",
    "avx512dq": "avx512",
    "avx512_vnni": "vnni",
    "avx_vnni": "vnni",
    "avx_vnni_int8": "vnni",
    "avx512_bf16": "bf16",
    "avx512_fp16": "fp16",
    "amx_tile": "amx",
    "amx_int8": "amx",
    "amx_bf16": "amx",
    "amx_fp16": "amx",
    "neon": "neon",
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
#: Too common to be worth a word on the screen.
_UNSAID = frozenset({"avx", "fma", "f16c"})


def processor_name() -> str:
    """Return the processor as its maker names it."""
    return _field("model name") or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...]:
    """Return which instructions for arithmetic it has, in Linux's spelling and a fixed order.

    Nothing where the system does not say.
    """
    found = (_field("flags") or _field("Features") or "").split()
    return tuple(name for name in _WORDS if name in found)


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that it has in the usual words, such as avx2, vnni and neon."""
    words = dict.fromkeys(_WORDS[name] for name in instructions())
    return tuple(word for word in words if word not in _UNSAID)


def processor_and_sets() -> str:
    """Return the processor and its instruction sets in words."""
    sets = " ".join(instruction_sets()) or f"{platform.machine()}, instruction sets unknown"
    return f"{processor_name()} ({sets})"


def made_for(manifest: Manifest) -> str:
    """Return what an artifact's graph was made for, in words: any processor if it is float32."""
    if manifest.target is None:
        return "any processor"
    needed = needed_instruction_sets(manifest)
    if needed:
        return f"CPUs with {' and '.join(needed)}"
    return {"cpu": "CPUs", "tensorrt": "TensorRT"}.get(manifest.target, manifest.target)


def needed_instruction_sets(manifest: Manifest) -> tuple[str, ...]:
    """Return what an artifact's graph was made for, in the words of `instruction_sets`."""
    targets = {"cpu-vnni": ("vnni",)}
    return targets.get(str(manifest.target), ())


@functools.cache
def _fields(path: Path) -> dict[str, str]:
    """Return what is said of the first processor."""
    found = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in iter(stream.readline, "\n"):  # up to the empty line before the second
                if not line:
                    break
                name, _, value = line.partition(":")
                found[name.strip()] = value.strip()
    except OSError:
        return {}
    return found


def _field(name: str) -> str:
    return _fields(_CPUINFO).get(name, "")
