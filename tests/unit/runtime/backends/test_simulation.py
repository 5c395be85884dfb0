"""The simulated GPU must not know what the real libraries do not."""

from __future__ import annotations

import inspect

import pytest

from tests.simulated import tensorrt as simulated
from tests.simulated.cudart import SimulatedCuda


def test_cuda_functions_exist_and_take_as_much():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name, function in vars(SimulatedCuda).items():
        if not name.startswith("cuda") or not callable(function):
            continue
        taken = (getattr(runtime, name).__doc__ or "").partition("(")[2].partition(")")[0]
        real = [part for part in taken.split(",") if part.strip()]
        assert len(real) == len(inspect.signature(function).parameters) - 1, name


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (simulated.Engine, "ICudaEngine"),
        (simulated.Context, "IExecutionContext"),
        (simulated.Runtime, "Runtime"),
    ],
)
def test_tensorrt_classes_have_these_methods(fake, real):
    trt = pytest.importorskip("tensorrt_rtx")
    used = {name for name in vars(fake) if not name.startswith("_")}
    assert used <= set(dir(getattr(trt, real)))
