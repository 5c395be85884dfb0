"""TensorRT's runtime with ONNX Runtime behind it: a plan here is the path of an ONNX file."""

from __future__ import annotations

import ctypes
import json
from enum import Enum
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort


class DataType(Enum):
    FLOAT = "float32"
    INT64 = "int64"
    UINT8 = "uint8"


def plan_of(model, profiles):
    """Return the bytes of a plan for an ONNX file: `profiles` lists (batch, explained) triples."""
    return json.dumps({"model": str(model), "profiles": profiles}).encode()


class SimulatedTensorRT:
    """The module `tensorrt`, as far as running an engine needs it."""

    __version__ = "10.13.2"
    DataType = DataType
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    LayerInformationFormat = SimpleNamespace(JSON=1)

    class ILogger:
        def __init__(self):
            pass

    def __init__(self, cuda, *, rtx=False):
        self.cuda = cuda
        self.contexts: list[Context] = []
        if rtx:
            self.CudaGraphStrategy = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)

    @staticmethod
    def nptype(kind):
        return np.dtype(kind.value).type

    def Runtime(self, logger):
        return Runtime(self, logger)


class Runtime:
    def __init__(self, trt, logger):
        assert trt.cuda.driver, "a runtime without a driver is a crash"
        self.trt, self.logger = trt, logger

    def deserialize_cuda_engine(self, plan):
        try:
            described = json.loads(bytes(plan))
        except ValueError:
            self.logger.log(1, "IRuntime::x: Error Code 1: Serialization (magicTag failed In y)")
            return None
        return Engine(self.trt, self.logger, described)


class Engine:
    device_memory_size_v2 = 4096

    def __init__(self, trt, logger, described):
        self.trt, self.logger = trt, logger
        self.session = ort.InferenceSession(described["model"], providers=["CPUExecutionProvider"])
        self.profiles = described["profiles"]
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.tensors = {**self.inputs, **self.outputs}
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, number):
        return list(self.tensors)[number]

    def get_tensor_dtype(self, name):
        kinds = {"tensor(float)": "FLOAT", "tensor(int64)": "INT64", "tensor(uint8)": "UINT8"}
        return DataType[kinds[self.tensors[name].type]]

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(size, str) else size for size in self.tensors[name].shape)

    def create_runtime_config(self):
        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda _: None,
            create_runtime_cache=object,
            set_runtime_cache=lambda _: None,
        )

    def create_execution_context(self, settings):
        context = Context(self, settings)
        self.trt.contexts.append(context)
        return context


class Context:
    def __init__(self, engine, settings):
        self.engine, self.settings = engine, settings
        self.shapes, self.addresses, self.memory, self.profile = {}, {}, None, None
        self.runs = 0

    def set_device_memory(self, memory, size):
        assert size >= self.engine.device_memory_size_v2
        assert memory in self.engine.trt.cuda.blocks
        self.memory = memory

    def set_optimization_profile_async(self, profile, stream):
        self.profile, self.shapes, self.settled_on = profile, {}, stream
        return 0 <= profile < len(self.engine.profiles)

    def set_input_shape(self, name, shape):
        batch, explained = self.engine.profiles[self.profile]
        free = iter((batch, explained))
        for expected, size in zip(self.engine.tensors[name].shape, shape, strict=True):
            low, _, high = next(free) if isinstance(expected, str) else (expected,) * 3
            if not low <= size <= high:
                self.engine.logger.log(1, "Error Code 3: API Usage Error (profile exceeded)")
                return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self):
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name):
        sizes = {}
        for given, shape in self.shapes.items():
            sizes.update(zip(self.engine.tensors[given].shape, shape, strict=True))
        return tuple(sizes.get(size, size) for size in self.engine.tensors[name].shape)

    def set_tensor_address(self, name, address):
        if address % 256:
            return False
        self.addresses[name] = int(address)
        return True

    def execute_async_v3(self, stream):
        assert self.memory in self.engine.trt.cuda.blocks, "its scratch memory is gone"
        captured = stream in self.engine.trt.cuda.capturing
        # The profile is set by work of one stream; another would have to wait for it.
        assert captured or self.runs or stream == self.settled_on, "the profile may not be set yet"
        self.runs += 1
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work():
            # A captured graph reads its context, which must be as it was.
            same = (shapes, addresses) == (self.shapes, self.addresses)
            assert same or not captured, "the context of a captured graph was changed"
            self._compute(shapes, addresses)

        self.engine.trt.cuda.push(stream, work)
        return True

    def _compute(self, shapes, addresses):
        feeds = {
            name: at(addresses[name], shapes[name], self.engine.get_tensor_dtype(name).value).copy()
            for name in self.engine.inputs
        }
        found = self.engine.session.run(list(self.engine.outputs), feeds)
        for name, value in zip(self.engine.outputs, found, strict=True):
            at(addresses[name], value.shape, value.dtype)[...] = value


def at(address, shape, dtype):
    """Return the array at an address."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(raw, kind).reshape(shape)
