"""A served model asks its graph as everything does: what is not finite is no answer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.messages import InferRequest, InputTensor
from tame_deploy.serving.model import ServedModel
from tame_deploy.serving.options import ModelOptions
from tame_deploy.serving.statistics import Metrics, ModelStatistics

#: A picture that the backend below spoils.
BAD = 7


class Spoiling:
    """A backend that gives NaN for one output of pictures that are all BAD."""

    def __init__(self, backend, output):
        self._backend, self._output = backend, output
        self.name, self.max_batch = backend.name, backend.max_batch

    def run(self, feeds):
        found = self._backend.run(feeds)
        found[self._output] = found[self._output].copy()
        found[self._output][feeds["images"][:, 0, 0, 0] == BAD] = np.nan
        return found

    def close(self):
        self._backend.close()


def request(value):
    images = np.full((1, 128, 128, 3), value, np.uint8)
    tensor = InputTensor("images", "UINT8", images)
    return InferRequest(model="demo", version="", id="", inputs=(tensor,))


@pytest.mark.parametrize("output", ["logits", "maps"])
def test_numbers_that_are_none_are_the_servers_fault_and_of_that_request_alone(demo_export, output):
    async def main():
        artifact = open_artifact(demo_export)
        backend = open_backend(artifact, "onnxruntime", BackendOptions(threads=1))
        statistics = ModelStatistics(name="demo", metrics=Metrics())
        explainer = Explainer(artifact, Spoiling(backend, output))
        model = ServedModel(explainer, ModelOptions(backend="onnxruntime"), statistics)
        model.warm_up()
        model.start()
        found = await asyncio.gather(
            *(model.infer(request(value), "http", 20) for value in (0, BAD, 1)),
            return_exceptions=True,
        )
        await model.close(5)
        return found

    good, bad, fine = asyncio.run(main())
    assert isinstance(bad, RequestError)
    assert bad.fault is Fault.INTERNAL
    for response in (good, fine):
        assert all(np.isfinite(one.array).all() for one in response.outputs)
