"""TensorRT and TensorRT-RTX engines as a backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.contrast import LIKELIEST, decode_contrast
from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.sidecar import FlavourName, Profile
from tame_deploy.artifact.types import TensorSpec, check_feeds
from tame_deploy.closing import Closing
from tame_deploy.errors import BackendError, DeviceError, InputError
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.backends.tensorrt.device_arrays import DeviceArray, view_of
from tame_deploy.runtime.backends.tensorrt.engines import StoredEngine, check_plan, choose_engine
from tame_deploy.runtime.backends.tensorrt.flavours import load_library
from tame_deploy.runtime.backends.tensorrt.lane import ALIGNMENT, Lane, largest_sizes, shape_of
from tame_deploy.runtime.backends.tensorrt.loaded import LoadedEngine, load_engine

__all__ = ["TensorRTBackend", "check_usable"]


class TensorRTBackend(Closing):
    """Runs an engine of an artifact on the GPU.

    `run` takes and gives numpy arrays and is safe for threads: each takes a lane (a stream, its
    buffers and contexts) of a pool. More classes than the largest profile are split, fewer
    pictures or classes than the smallest are filled up; more pictures than `max_batch` are
    refused. `run_on_device` leaves everything on the GPU.
    """

    def __init__(
        self,
        engine: LoadedEngine,
        stored: StoredEngine,
        device: cuda.Device,
        options: BackendOptions,
    ) -> None:
        sidecar = stored.sidecar
        self.inputs, self.outputs = sidecar.inputs, sidecar.outputs
        self.stored = stored
        self.device = device
        self.name = f"{sidecar.flavour} {sidecar.shown_precision} on {device.name}"
        self._engine: LoadedEngine | None = engine
        self._profiles = sidecar.options.profiles
        self._symbols = _symbols(sidecar.inputs)
        self._classes = int(sidecar.outputs[0].shape[1])
        self._largest = largest_sizes([self._sizes_of(profile, 2) for profile in self._profiles])
        self.max_batch: int | None = self._max("batch")
        self._capture = options.cuda_graphs
        self._most_lanes = options.streams
        self._turn = threading.Condition()
        # The first lane now: what does not fit on the device is said before the first picture.
        with device.current():
            self._idle = [Lane(engine, self._largest, self._capture)]
        self._made = 1

    @classmethod
    def of_artifact(
        cls, artifact: Artifact, flavour: FlavourName, options: BackendOptions
    ) -> TensorRTBackend:
        """Open the artifact's engine for this machine.

        Raises:
            BackendNotInstalledError: without the library or cuda-bindings.
            DeviceError: without a driver, a GPU, or room on it.
            IncompatibleArtifactError: without an engine for this machine, or one that it refuses.
            ChecksumError: if the plan is missing, truncated or altered.
        """
        # The GPU before the library: some of its runtimes crash where there is no driver.
        try:
            device = cuda.probe(options.device)
        except DeviceError as error:
            raise DeviceError(
                f"{error}. An engine runs on its GPU alone; backend onnxruntime runs the graph here"
            ) from None
        library = load_library(flavour)
        stored = choose_engine(artifact, flavour, library.version, device, options.engine)
        engine = load_engine(artifact, stored, library, device, options.cuda_graphs)
        return cls(engine, stored, device, options)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name (see `Backend.run`)."""
        check_feeds(self.inputs, feeds)
        most = self._max("explained")
        _check_places(feeds, most, self._classes)
        with self._lane() as lane:
            if "class_ids" not in feeds:
                return self._run_part(lane, feeds)
            class_ids = feeds["class_ids"]
            starts = range(0, max(class_ids.shape[1], 1), most)
            return _joined(
                [
                    self._run_part(lane, {**feeds, "class_ids": class_ids[:, start : start + most]})
                    for start in starts
                ]
            )

    def _run_part(self, lane: Lane, part: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run what fits into a profile, filled up where it is less than the profile's min."""
        asked = self._sizes(part)
        profile, sizes = self._fit(asked)
        if sizes != asked:
            part = {
                spec.name: _filled(part[spec.name], shape_of(spec, self._named(sizes)))
                for spec in self.inputs
            }
        found = lane.run(profile, self._named(sizes), part)
        return {
            spec.name: found[spec.name][self._window(spec, asked)] for spec in self.outputs
        }  # fmt: skip

    def run_on_device(
        self,
        feeds: Mapping[str, Any],
        *,
        out: Mapping[str, Any] | None = None,
        stream: int | None = None,
    ) -> dict[str, DeviceArray]:
        """Run on arrays that are on the GPU, and leave the outputs there.

        Args:
            feeds: inputs by name, from any library with DLPack or `__cuda_array_interface__`;
                numpy arrays are copied over, and what is there and does not begin at a multiple of
                256 bytes is copied on the GPU. They must fit into one profile.
            out: arrays to write some of the outputs into; the others are allocated anew.
            stream: address of the caller's CUDA stream. The work is queued there and this returns
                at once; inputs may be changed, and outputs read, by later work of that stream.
                Without it, this returns when all is done.

        Raises:
            InputError: for an input or output that does not fit, or fits no profile.
            BackendError: if the engine fails.
        """
        with self._lane() as lane:
            queue_ = lane.stream.handle if stream is None else stream
            lane.wait_for_last(queue_)
            seen = {
                name: array
                if isinstance(array, np.ndarray)
                else view_of(name, array, self.device.index, queue_)
                for name, array in feeds.items()
            }
            check_feeds(self.inputs, seen)
            sizes = self._sizes(seen)
            profile, fitting = self._fit(sizes)
            if fitting != sizes:
                raise InputError(f"found {sizes}; no profile holds it ({self._described()})")
            results = self._results(self._named(sizes), out or {}, queue_, stream)
            addresses = {name: array.address for name, array in results.items()}
            try:
                for spec in self.inputs:
                    addresses[spec.name] = lane.place_input(spec, seen[spec.name], queue_)
                lane.enqueue(profile, self._named(sizes), addresses, queue_)
            finally:
                lane.mark_done(queue_)
            if stream is None:
                lane.stream.synchronize()
            return results

    def _results(
        self,
        sizes: Mapping[str, int],
        out: Mapping[str, Any],
        stream: int,
        told: int | None,
    ) -> dict[str, DeviceArray]:
        unknown = sorted(out.keys() - {spec.name for spec in self.outputs})
        if unknown:
            raise InputError(f"out names {unknown}; expected some of {[*map(str, self.outputs)]}")
        results = {}
        for spec in self.outputs:
            shape, index = shape_of(spec, sizes), self.device.index
            if spec.name not in out:
                size = int(np.prod(shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
                memory = cuda.DeviceMemory(size)
                results[spec.name] = DeviceArray(
                    memory.handle, shape, spec.dtype, index, told, memory
                )
                continue
            view = view_of(spec.name, out[spec.name], index, stream, writable=True)
            if view.address % ALIGNMENT:
                raise InputError(
                    f"out has {spec.name} at {view.address:#x}; expected an address that is a "
                    f"multiple of {ALIGNMENT}, as that of a whole allocation"
                )
            if (view.shape, view.dtype) != (shape, spec.dtype):
                raise InputError(
                    f"out has {spec.name}: {view.dtype} {list(view.shape)}; expected "
                    f"{spec.dtype} {list(shape)}"
                )
            results[spec.name] = DeviceArray(
                view.address, shape, spec.dtype, index, told, out[spec.name]
            )
        return results

    def _sizes(self, feeds: Mapping[str, Any]) -> dict[str, int]:
        """Return how many pictures, and classes where the graph takes them."""
        sizes = {"batch": int(feeds["images"].shape[0])}
        if "class_ids" in feeds:
            sizes["explained"] = int(feeds["class_ids"].shape[1])
        return sizes

    def _named(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return sizes by the symbols that the graph has for them."""
        return {self._symbols[kind]: size for kind, size in sizes.items()}

    def _sizes_of(self, profile: Profile, place: int) -> dict[str, int]:
        sizes = {self._symbols["batch"]: profile.batch[place]}
        if profile.explained is not None:
            sizes[self._symbols["explained"]] = profile.explained[place]
        return sizes

    def _max(self, kind: str) -> int:
        return self._largest.get(self._symbols.get(kind, ""), 1)

    def _fit(self, sizes: Mapping[str, int]) -> tuple[int, dict[str, int]]:
        """Return the tightest profile for some sizes, and the sizes filled up to its min."""
        fits = []
        for number, profile in enumerate(self._profiles):
            extents = {"batch": profile.batch, "explained": profile.explained}
            held = {kind: extents[kind] or (1, 1, 1) for kind in sizes}
            if all(size <= held[kind][2] for kind, size in sizes.items()):
                filled = {kind: max(size, held[kind][0]) for kind, size in sizes.items()}
                away = abs(profile.batch[1] - sizes["batch"])
                fits.append((filled["batch"], away, profile.batch[2], number, filled))
        if not fits:
            raise InputError(f"found {dict(sizes)}; no profile holds it ({self._described()})")
        *_, number, filled = min(fits, key=lambda fit: fit[:4])
        return number, filled

    def _described(self) -> str:
        return "; ".join(map(str, self._profiles))

    def _window(self, spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[slice, ...]:
        named = self._named(sizes)
        return tuple(
            slice(named[size] if isinstance(size, str) else size) for size in spec.shape
        )  # fmt: skip

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """Lend a lane to this thread: an idle one, a new one, or the first to come free."""
        with self.device.current():
            lane = self._take_lane()
            try:
                yield lane
            finally:
                with self._turn:
                    self._idle.append(lane)
                    self._turn.notify_all()

    def _take_lane(self) -> Lane:
        while True:
            with self._turn:
                self._turn.wait_for(
                    lambda: self._engine is None or self._idle or self._made < self._most_lanes
                )
                engine = self._engine
                if engine is None:
                    raise BackendError("this backend is closed; open it again")
                if self._idle:
                    return self._idle.pop()
                self._made += 1
            try:
                return Lane(engine, self._largest, self._capture)
            except DeviceError:
                # No room for another: threads share those there are.
                with self._turn:
                    self._made -= 1
                    self._most_lanes = max(self._made, 1)
                    self._turn.notify_all()

    def close(self) -> None:
        """Free engine, streams and memory, once the calls that are running have ended."""
        with self._turn:
            engine, self._engine = self._engine, None
            self._turn.notify_all()
            if engine is None:
                return
            self._turn.wait_for(lambda: len(self._idle) == self._made)
            with self.device.current():
                for lane in self._idle:
                    lane.close()
                self._idle, self._made = [], 0
                engine.close()


def check_usable(flavour: FlavourName, artifact: Artifact | None, options: BackendOptions) -> None:
    """Check that a flavour runs here, and has an engine for here where an artifact is given.

    Raises:
        BackendNotInstalledError: if the library cannot be imported.
        DeviceError: without a driver or a GPU.
        IncompatibleArtifactError: without an engine for this machine.
        ChecksumError: if its plan is missing, truncated or altered.
    """
    device = cuda.probe(options.device)
    library = load_library(flavour)
    if artifact is not None:
        stored = choose_engine(artifact, flavour, library.version, device, options.engine)
        check_plan(artifact, stored)


def _symbols(inputs: tuple[TensorSpec, ...]) -> dict[str, str]:
    """Return the graph's own names of its two free sizes."""
    by_name = {spec.name: spec.shape for spec in inputs}
    symbols = {"batch": str(by_name["images"][0])}
    if "class_ids" in by_name:
        symbols["explained"] = str(by_name["class_ids"][1])
    return symbols


def _check_places(feeds: Mapping[str, NDArray[Any]], most: int, classes: int) -> None:
    """-1 in place j means a rank, which a split at another place would change."""
    if "class_ids" not in feeds:
        return
    own, _ = decode_contrast(feeds["class_ids"][:, most:], classes)
    if (own == LIKELIEST).any():
        raise InputError(
            f"-1 stands in place {most + 1} or later; this engine ranks {most} classes at a time "
            "(compile with a larger --explained)"
        )


def _filled(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Repeat the last entries of an array until it has a shape."""
    extra = [(0, wanted - have) for wanted, have in zip(shape, array.shape, strict=True)]
    return np.pad(array, extra, mode="edge")


def _joined(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Join parts of a call by class; logits do not depend on which classes were explained."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: parts[0][name]
        if name == "logits"
        else np.concatenate([part[name] for part in parts], axis=1)
        for name in parts[0]
    }
