"""The PyTorch network behaves as any backend does."""

import numpy as np
import pytest
import torch

from tame_deploy.errors import BackendError, InputError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.model.torch_backend import TorchBackend


@pytest.fixture(scope="module")
def network():
    return build_network(load_backbone(BackboneRequest("demo")), HeadRequest())


def feeds(backend, batch=2, per_image=1):
    generator = np.random.default_rng(0)
    shape = [batch if size == "batch" else size for size in backend.inputs[0].shape]
    if backend.image.dtype == "uint8":
        images = generator.integers(0, 256, shape, dtype=np.uint8)
    else:
        images = generator.normal(size=shape).astype(np.float32)
    return {"images": images, "class_ids": np.full((batch, per_image), -1, np.int64)}


def test_it_gives_the_networks_logits_and_the_likeliest_classes_map(network):
    backend = TorchBackend(network)
    given = feeds(backend)
    out = backend.run(given)
    logits, maps = network(torch.from_numpy(given["images"]))
    best = logits.argmax(1)
    own = maps[torch.arange(2), best].detach().numpy()
    low, high = own.min((1, 2), keepdims=True), own.max((1, 2), keepdims=True)
    assert np.allclose(out["logits"], logits.detach(), atol=1e-4)
    assert (out["explained"][:, 0] == best.numpy()).all()
    assert np.allclose(out["maps"][:, 0], (own - low) / (high - low), atol=1e-3)


def test_pixels_and_floats_agree(network):
    pixels, floats = TorchBackend(network, "uint8"), TorchBackend(network)
    given = feeds(pixels)
    mean, std = np.array(floats.image.mean), np.array(floats.image.std)
    normalised = (((given["images"] / 255) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    other = floats.run({**given, "images": np.ascontiguousarray(normalised)})
    assert np.allclose(pixels.run(given)["logits"], other["logits"], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 3, 128, 127), np.float32)}, r"found images: .*127\]; expected"),
        ({"images": np.zeros((1, 3, 128, 128), np.uint8)}, "found images: uint8"),
        ({"class_ids": np.zeros(1, np.int64)}, r"found class_ids: int64 \[1\]"),
    ],
)
def test_ill_shaped_inputs_are_refused(network, change, message):
    backend = TorchBackend(network)
    with pytest.raises(InputError, match=message):
        backend.run(feeds(backend) | change)


def test_missing_inputs_and_a_closed_backend_are_errors(network):
    with TorchBackend(network) as backend:
        given = feeds(backend)
        with pytest.raises(InputError, match=r"expected \[.class_ids., .images.\]"):
            backend.run({"images": given["images"]})
    with pytest.raises(BackendError, match="closed"):
        backend.run(given)
