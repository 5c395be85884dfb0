"""Artifacts that somebody damaged or forged."""

import io
import zipfile

import numpy as np
import pytest

from tame_deploy import load, open_artifact
from tame_deploy.errors import ManifestError
from tame_deploy.runtime.verify.reference import ParityReference
from tests.attacks.cases import ATTACKS, forge


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(demo_copy, attack):
    attack.spoil(demo_copy)
    with pytest.raises(attack.error) as caught:
        open_artifact(demo_copy) if attack.stage == "open" else load(demo_copy)
    assert type(caught.value) is attack.error
    assert attack.words in str(caught.value)
    assert "\n" not in str(caught.value) or "\n" in attack.words


def archive(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def damaged_archive():
    data = bytearray(archive(images=np.arange(5000)))
    data[60:80] = b"\xff" * 20
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"not an archive",
        archive(images=np.zeros(3)),
        archive(images=np.array([{"pickled": 1}], dtype=object)),
        archive(**{name: np.zeros(2) for name in ("images", "class_ids", "logits", "maps")}),
        damaged_archive(),
    ],
)
def test_forged_reference(demo_copy, data):
    forge(demo_copy, "parity.npz", data)
    with pytest.raises(ManifestError, match="Export again"):
        ParityReference.load(open_artifact(demo_copy))


@pytest.mark.slow
def test_reference_that_unpacks_to_more_than_memory(demo_copy):
    with zipfile.ZipFile(demo_copy / "parity.npz", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("images.npy", bytes(1100 * 2**20))
    forge(demo_copy, "parity.npz", (demo_copy / "parity.npz").read_bytes())
    with pytest.raises(ManifestError, match="unpacks to 1100 MiB"):
        ParityReference.load(open_artifact(demo_copy))
