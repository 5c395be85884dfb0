"""What a backend gives is held to the reference; NaN and infinity never pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.errors import BackendError, ParityError
from tame_deploy.runtime.predict.predictor import Predictor
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.comparison import is_flat
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference


@pytest.fixture
def artifact(demo_export):
    return open_artifact(demo_export)


@pytest.fixture
def backend(artifact):
    with open_backend(artifact, "onnxruntime") as opened:
        yield opened


class Changed:
    """A backend whose outputs are changed by a function of their arrays by name."""

    def __init__(self, backend, change, max_batch=None):
        self.backend, self.change, self.max_batch = backend, change, max_batch
        self.name, self.inputs, self.outputs = "changed", backend.inputs, backend.outputs

    def run(self, feeds):
        found = {name: array.copy() for name, array in self.backend.run(feeds).items()}
        self.change(found)
        return found


def spoiled(name, value):
    def spoil(found):
        found[name].flat[-1] = value

    return spoil


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["logits", "maps"])
@pytest.mark.parametrize(
    ("precision", "arithmetic"),
    [("fp32", "own"), ("fp32", "tf32"), ("fp32", "bf16"), ("int8", "own")],
)
def test_nan_and_infinity_are_no_parity(artifact, backend, name, value, precision, arithmetic):
    manifest = replace(artifact.manifest, precision=precision, parity=None)
    wrong = Changed(backend, spoiled(name, value))
    with pytest.raises(ParityError, match=rf"{name}\[.* is -?(nan|inf) at batch 1"):
        check_parity(
            wrong,
            ParityReference.load(artifact),
            replace(artifact, manifest=manifest),
            arithmetic=arithmetic,
        )


@pytest.mark.parametrize("name", ["logits", "maps"])
def test_elsewhere_nan_is_a_failure_of_the_backend(artifact, backend, name):
    reference = ParityReference.load(artifact)
    predictor = Predictor.of(artifact.manifest, Changed(backend, spoiled(name, np.nan)))
    with pytest.raises(BackendError, match=f"NaN or infinite {name}"):
        predictor.predict(reference.images)
    assert np.isnan(getattr(predictor.predict(reference.images, allow_non_finite=True), name)).any()


def scaled(found):
    found["maps"] *= 1.01


def test_arithmetic_of_fewer_bits_is_held_less_strictly(artifact, backend):
    reference = ParityReference.load(artifact)
    near = Changed(backend, scaled)
    with pytest.raises(ParityError, match="off by 1.00% of the range, tolerance 0.50%"):
        check_parity(near, reference, artifact)
    assert check_parity(near, reference, artifact, arithmetic="tf32").map_error < 0.02

    def upside_down(found):
        found["maps"] = found["maps"][:, :, ::-1]

    for arithmetic in ("tf32", "bf16"):
        with pytest.raises(ParityError):
            check_parity(Changed(backend, upside_down), reference, artifact, arithmetic=arithmetic)


def test_a_batch_beyond_the_backends_largest_is_compared_in_parts(artifact, backend):
    sizes = []
    most_two = Changed(backend, lambda found: sizes.append(len(found["logits"])), max_batch=2)
    report = check_parity(most_two, ParityReference.load(artifact), artifact, batches=[5])
    assert report.pictures == 5
    assert max(sizes) == 2


def test_a_difference_of_one_sign_is_not_flat_and_a_zero_one_or_a_uniform_one_is():
    ramp = np.linspace(0.3, 1, 9, dtype=np.float32).reshape(3, 3)
    assert is_flat(ramp, "minmax")
    assert not is_flat(ramp, "minmax", signed=True)
    assert not is_flat(-ramp, "minmax", signed=True)
    assert is_flat(0 * ramp, "minmax", signed=True)
    assert is_flat(0 * ramp + 1, "minmax", signed=True)
