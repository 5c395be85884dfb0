"""The other servers of serving.py: programs that run in environments of their own.

They get ports, threads, file and tensors as JSON.
"""

from __future__ import annotations

PYTRITON, KSERVE = "pytriton", "kserve"

_COMMON = """
import json, logging, sys
import numpy as np
import onnxruntime as ort

logging.disable(logging.INFO)
told = json.loads(sys.argv[1])
settings = ort.SessionOptions()
settings.intra_op_num_threads = told["threads"]
session = ort.InferenceSession(told["file"], settings, ["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
"""
PEERS = {
    PYTRITON: _COMMON
    + """
import os, sysconfig
# Triton's own Python must be this one, down to its last digit.
os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")

from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

def ports(kind):
    return [Tensor(name=n, dtype=np.dtype(d), shape=tuple(s)) for n, d, s in told[kind]]

@batch
def infer(**feeds):
    return dict(zip(names, session.run(names, feeds)))

config = TritonConfig(http_port=told["http"], grpc_port=told["grpc"], allow_metrics=False,
                      http_address="127.0.0.1", grpc_address="127.0.0.1")
if __name__ == "__main__":
    with Triton(config=config) as triton:
        triton.bind(model_name=told["model"], infer_func=infer, inputs=ports("inputs"),
                    outputs=ports("outputs"), strict=False,
                    config=ModelConfig(max_batch_size=told["batch"], batcher=DynamicBatcher()))
        triton.serve()
""",
    KSERVE: _COMMON
    + """
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.numpy_codec import from_np_dtype

class Served(Model):
    def __init__(self):
        super().__init__(told["model"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        found = session.run(names, {one.name: one.as_numpy() for one in payload.inputs})
        outputs = []
        for name, array in zip(names, found):
            output = InferOutput(name, list(array.shape), from_np_dtype(array.dtype))
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs,
                             use_binary_outputs=True, requested_outputs=payload.request_outputs)

ModelServer(http_port=told["http"], grpc_port=told["grpc"], workers=1,
            enable_latency_logging=False).start([Served()])
""",
}
