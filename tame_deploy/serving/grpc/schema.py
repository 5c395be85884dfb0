"""The messages of open_inference.proto, in a pool of their own.

Every other copy of the protocol in the process (tritonclient's is one) has the same names, and two
of them in one pool would be an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

__all__ = ["METHODS", "POOL", "SERVICE", "message"]

SERVICE = "inference.GRPCInferenceService"

POOL = DescriptorPool()
_set = descriptor_pb2.FileDescriptorSet.FromString(
    (Path(__file__).parent / "open_inference.binpb").read_bytes()
)
for _file in _set.file:
    POOL.AddSerializedFile(_file.SerializeToString())


def message(name: str) -> Any:
    """Return the class of a message by its name in the protocol."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


#: Of every method: the class of what it takes, and whether both sides stream.
METHODS: dict[str, tuple[Any, bool]] = {
    method.name: (message(method.input_type.name), method.name == "ModelStreamInfer")
    for method in POOL.FindServiceByName(SERVICE).methods
}
