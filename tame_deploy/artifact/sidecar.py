"""engine.json: what a compiled engine was made of and where it runs, read before the engine is."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from tame_deploy.artifact.decoding import decode, parse_object
from tame_deploy.artifact.manifest import FidelityReport, ParityReport, Precision
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import IncompatibleArtifactError, InputError, ManifestError

__all__ = [
    "MAX_SIDECAR_BYTES",
    "SIDECAR_NAME",
    "EngineOptions",
    "EngineSidecar",
    "FlavourName",
    "Profile",
]

SIDECAR_NAME = "engine.json"
SIDECAR_VERSION = 1
MAX_SIDECAR_BYTES = 2**20

FlavourName = Literal["tensorrt", "tensorrt-rtx"]

#: The least compute capability of engines that are tied to none.
_PORTABLE = (8, 0)
#: TensorRT-RTX leaves the data centre's Hopper and Blackwell, from here ...
_NOT_RTX = (9, 0)
#: ... up to here, to TensorRT.
_RTX_AGAIN = (12, 0)
#: More pictures or classes in a profile are a mistake.
_MAX_EXTENT = 65536


@dataclass(frozen=True)
class Profile:
    """An optimisation profile: min, opt and max pictures, and classes to explain for each.

    `explained` is None where the graph does not take class ids.

    Raises:
        InputError: unless 1 <= min <= opt <= max.
    """

    batch: tuple[int, int, int]
    explained: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name, extent in (("batch", self.batch), ("explained", self.explained)):
            if extent is None:
                continue
            low, opt, high = extent
            if not 1 <= low <= opt <= high <= _MAX_EXTENT:
                raise InputError(
                    f"profile {name} is {low},{opt},{high}; expected min, opt and max, "
                    f"rising, from 1 to {_MAX_EXTENT}"
                )

    def __str__(self) -> str:
        text = f"batch {','.join(map(str, self.batch))}"
        if self.explained is None:
            return text
        return f"{text} with {','.join(map(str, self.explained))} classes each"


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is compiled.

    Attributes:
        profiles: the sizes that it is made for.
        workspace_mib: memory that a layer may use for itself, MiB; the whole device's by default.
        optimization_level: how long the builder searches, 0 to 5.
        compute_capabilities: of the GPUs it is for, as "8.9"; TensorRT-RTX only, which makes a
            portable engine where there are none. TensorRT builds for the GPU at hand.
        tf32: float32 layers may round to TF32's ten bits on tensor cores.
        version_compatible: later versions of TensorRT can load it.
        hardware_compatible: it runs on every GPU from compute capability 8.0.
        refit: its weights can be replaced later.
        strip: it is stored without weights, which come from the artifact's graph when it is opened.

    Raises:
        InputError: for numbers outside their range, or a malformed compute capability.
    """

    profiles: tuple[Profile, ...]
    workspace_mib: int | None = None
    optimization_level: int = 3
    compute_capabilities: tuple[str, ...] = ()
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    strip: bool = False

    def __post_init__(self) -> None:
        if not self.profiles:
            raise InputError("found no profile; expected at least one")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= 2**20:
            raise InputError(f"workspace is {self.workspace_mib} MiB; expected 1 to {2**20}")
        if not 0 <= self.optimization_level <= 5:
            raise InputError(f"optimization level is {self.optimization_level}; expected 0 to 5")
        for text in self.compute_capabilities:
            parse_capability(text)
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise InputError(f"found {', '.join(self.compute_capabilities)}; one is there twice")
        in_order = tuple(sorted(self.compute_capabilities, key=parse_capability))
        object.__setattr__(self, "compute_capabilities", in_order)


def parse_capability(text: str) -> tuple[int, int]:
    """Return (8, 9) of "8.9".

    Raises:
        InputError: for another form.
    """
    major, _, minor = text.partition(".")
    if not (text.isascii() and major.isdecimal() and minor.isdecimal() and len(text) <= 5):
        raise InputError(f"found compute capability {text!r}; expected MAJOR.MINOR as in 8.9")
    return int(major), int(minor)


@dataclass(frozen=True)
class EngineSidecar:
    """An engine's own description (docs/artifact.md#enginejson lists every field).

    Attributes:
        flavour: whose engine it is.
        version: that library's version, exactly.
        precision: of the graph it was made of.
        compute_capabilities: of the GPUs that run it; none where it is portable.
        device: name of the GPU it was built on; none where none was needed.
        options: how it was compiled, as the builder read it back.
        inputs, outputs: the graph's tensors.
        manifest: identity of the artifact's manifest.
        onnx_sha256: of the graph it was made of.
        plan: name of the plan's file beside engine.json.
        plan_sha256, plan_bytes: of that file.
        key: of everything that makes it what it is; the cache's name for it.
        build_s: how long the builder took, seconds.
        timing_cache: whether the builder was given the tactics of earlier builds.
        calibration: key of the calibration that set a quantized graph's ranges.
        parity: how far it is from PyTorch on a device, by batch size; empty until verified.
        fidelity: how far from float32, by batch size; empty until verified with pictures.
        verified_on: the device of both.
    """

    flavour: FlavourName
    version: str
    precision: Precision
    compute_capabilities: tuple[str, ...]
    device: str | None
    options: EngineOptions
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    manifest: str
    onnx_sha256: str
    plan: str
    plan_sha256: str
    plan_bytes: int
    key: str
    build_s: float
    timing_cache: bool = False
    calibration: str | None = None
    parity: dict[str, ParityReport] = field(default_factory=dict)
    fidelity: dict[str, FidelityReport] = field(default_factory=dict)
    verified_on: str | None = None
    schema_version: int = SIDECAR_VERSION

    @property
    def shown_precision(self) -> str:
        """The precision in one word: TF32 is not quite float32."""
        return "tf32" if self.precision == "fp32" and self.options.tf32 else self.precision

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether it was made for GPUs of a compute capability."""
        if self.compute_capabilities:
            return capability in map(parse_capability, self.compute_capabilities)
        if self.flavour == "tensorrt-rtx" and _NOT_RTX <= capability < _RTX_AGAIN:
            return False
        return capability >= _PORTABLE

    @property
    def runs_where(self) -> str:
        """The GPUs that it was made for, in words."""
        if self.compute_capabilities:
            return f"compute capability {' or '.join(self.compute_capabilities)}"
        if self.flavour == "tensorrt-rtx":
            return "compute capability 8.x, and 12.0 and later"
        return "compute capability 8.0 and later"

    def to_json(self) -> str:
        """Return the text of engine.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineSidecar:
        """Read a sidecar and check every field.

        Raises:
            ManifestError: malformed JSON; a missing, unknown or ill-typed field.
            IncompatibleArtifactError: written by a newer tame-deploy.
        """
        raw: dict[str, Any] = parse_object(text, SIDECAR_NAME)
        version = raw.get("schema_version")
        if type(version) is int and version > SIDECAR_VERSION:
            raise IncompatibleArtifactError(
                f"{SIDECAR_NAME} has schema version {version}; this tame-deploy reads up to "
                f"{SIDECAR_VERSION}. Upgrade: pip install -U tame-deploy"
            )
        sidecar = typing.cast(EngineSidecar, decode(cls, raw, "engine"))
        if sidecar.schema_version != SIDECAR_VERSION:
            raise ManifestError(
                f"schema_version is {sidecar.schema_version}; expected {SIDECAR_VERSION}"
            )
        name = sidecar.plan
        if not name or name != name.strip(". ") or any(mark in name for mark in "/\\:\0"):
            raise ManifestError(f"engine.plan is {name!r}; expected a plain file name")
        return sidecar
