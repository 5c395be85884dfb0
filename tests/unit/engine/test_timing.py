"""Timings of earlier builds, kept for the next; the builder here is a stand-in for TensorRT's."""

from __future__ import annotations

import pytest

from tame_deploy.engine.timing import TimingCache
from tame_deploy.errors import BuildError

pytest.importorskip("filelock")


class Timings:
    def __init__(self, blob):
        self.known = set(blob.decode().split())

    def combine(self, other, ignore_mismatch):
        assert ignore_mismatch
        self.known |= other.known

    def serialize(self):
        return memoryview(" ".join(sorted(self.known)).encode())


class Settings:
    """A builder's configuration, as far as timings go."""

    def __init__(self, refuses=False):
        self.refuses = refuses

    def create_timing_cache(self, blob):
        return None if blob.startswith(b"foreign") else Timings(blob)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = cache
        return not self.refuses

    def get_timing_cache(self):
        return self.cache


def test_a_build_starts_from_what_others_found_and_adds_to_it(tmp_path):
    cache = TimingCache(tmp_path / "timing", "10.13.2", "NVIDIA H100 80GB")
    assert cache.path.name == "10.13.2-NVIDIA-H100-80GB.timing"
    first, second = Settings(), Settings()
    cache.load_into(first)
    cache.load_into(second)
    first.cache.known.add("conv")
    second.cache.known.add("gemm")
    cache.save_from(first)
    cache.save_from(second)
    third = Settings()
    cache.load_into(third)
    assert third.cache.known == {"conv", "gemm"}


def test_timings_of_another_library_are_begun_anew(tmp_path):
    cache = TimingCache(tmp_path, "11", "GPU")
    cache.path.write_bytes(b"foreign")
    settings = Settings()
    cache.load_into(settings)
    assert settings.cache.known == set()
    cache.save_from(settings)
    with pytest.raises(BuildError, match="was refused; delete it"):
        cache.load_into(Settings(refuses=True))
