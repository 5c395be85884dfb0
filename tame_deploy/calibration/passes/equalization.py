"""Cross-layer equalisation: channels rescaled where the network cannot tell the difference.

ReLU, pooling and addition commute with a positive factor a channel, and a Clip from zero upwards
does where its upper bound is divided as well. So a layer's output channels may be divided by
factors that the layers after it multiply back in, exactly. Chosen so that no
channel needs much more range than another, they let eight bits serve all channels (Nagel et al.,
ICCV 2019, section 4.1), here balancing activations against the weights that read them (Xiao et
al., SmoothQuant, ICML 2023, equation 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tame_deploy.calibration.graph import Graph, attribute

__all__ = ["ChannelGroups", "equalize"]

#: Operations that keep channels apart and commute with a positive factor for each.
_KEEPING = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout"}
    | {"MaxPool", "AveragePool", "GlobalAveragePool"}
)
#: No channel is rescaled by more than this, up or down.
LIMIT = 32.0
_TINY = 1e-9
#: How often clips are looked at again: what one lowers can be what another shares.
_ROUNDS = 4

Ids = NDArray[np.int64]


class ChannelGroups:
    """Which channels of which values must be rescaled alike, and which cannot be.

    Every channel of every value has an id, and `groups` says which ids share one factor. Channels
    of values that something else reads (a sigmoid, the graph's outputs) are fixed.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._count = 0
        self._equal: list[tuple[Ids, Ids]] = []
        self.fixed: set[int] = set()
        self.ids: dict[str, Ids] = {}
        #: (weight name, axis of its output channels, ids) of all that read rescaled channels; the
        #: ids have the weight's number of dimensions, and say which channel each of it multiplies.
        self.readers: list[tuple[str, int, Ids]] = []
        self.writers: list[tuple[onnx.NodeProto, Ids]] = []
        #: (Clip, its upper bound, ids) of all Clips that rescaled channels go through.
        self.clips: list[tuple[onnx.NodeProto, float, Ids]] = []
        layers = {str(layer.name) for layer in graph.layers}
        for node in graph.nodes:
            self._visit(node, is_layer=node.name in layers)
        for name in graph.outputs & self.ids.keys():
            self._fix(name)

    @cached_property
    def groups(self) -> Ids:
        """The number of each id's group, int64 (ids), counted from zero."""
        return _connected(self._count, self._equal)

    def _new(self, count: int) -> Ids:
        self._count += count
        return np.arange(self._count - count, self._count, dtype=np.int64)

    def _fix(self, name: str) -> None:
        self.fixed.update(int(number) for number in self.ids.get(name, ()))

    def _visit(self, node: onnx.NodeProto, *, is_layer: bool) -> None:
        known = [name for name in node.input if name in self.ids]
        if is_layer and self._visit_layer(node):
            return
        if not known:
            return
        output = str(node.output[0])
        if node.op_type in _KEEPING or self._is_spatial_mean(node) or self._flattens(node):
            self.ids[output] = self.ids[known[0]]
        elif (high := self._clips_above_zero(node)) is not None:
            self.ids[output] = self.ids[known[0]]
            self.clips.append((node, high, self.ids[output]))
        elif node.op_type == "Mul" and len(known) == 1 and self._sized(node):
            self.ids[output] = self.ids[known[0]]  # a gate, or a constant
        elif node.op_type == "Add" and len(known) == 2 and self._same_channels(known):
            self._equal.append((self.ids[known[0]], self.ids[known[1]]))
            self.ids[output] = self.ids[known[0]]
        elif node.op_type == "Concat" and attribute(node, "axis") == 1 and self._sized(node):
            parts = [self._ids_or_fixed(name) for name in node.input]
            self.ids[output] = np.concatenate(parts)
        elif not self._read_by_tail(node):
            for name in known:
                self._fix(name)

    def _sized(self, node: onnx.NodeProto) -> bool:
        shapes = [self.graph.shapes.get(name, (None, None)) for name in node.input]
        return all(len(shape) > 1 and shape[1] is not None for shape in shapes)

    def _clips_above_zero(self, node: onnx.NodeProto) -> float | None:
        """Return the upper bound of a Clip from zero upwards."""
        kept = self.graph.bounds(node) if node.op_type == "Clip" else None
        return kept[1] if kept is not None and kept[0] == 0 and np.isfinite(kept[1]) else None

    def _ids_or_fixed(self, name: str) -> Ids:
        if name in self.ids:
            return self.ids[name]
        channels = self.graph.shapes[name][1]
        assert channels is not None
        ids = self._new(channels)
        self.fixed.update(ids.tolist())
        return ids

    def _visit_layer(self, node: onnx.NodeProto) -> bool:
        """Note what the layer reads and writes; a layer of an unknown kind is no layer here."""
        shape = self.graph.initializers[node.input[1]].dims
        source, output = str(node.input[0]), str(node.output[0])
        if not self._may_rescale(node):
            return False
        rows = 0 if node.op_type == "Conv" or attribute(node, "transB") else 1
        if node.op_type == "MatMul" and len(self.graph.shapes.get(source, ())) != 2:
            return False  # channels are not on axis 1 there
        if source in self.ids:
            groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
            read = np.repeat(self.ids[source].reshape(groups, -1), shape[rows] // groups, axis=0)
            read = read if rows == 0 else read.T
            self.readers.append((str(node.input[1]), rows, _with_rank(read, len(shape))))
        self.ids[output] = self._new(int(shape[rows]))
        self.writers.append((node, self.ids[output]))
        return True

    def _may_rescale(self, node: onnx.NodeProto) -> bool:
        """Whether weight and bias are plain constants of this layer alone."""
        constants = [name for name in node.input[1:] if name]
        alone = all(len(self.graph.consumers[name]) == 1 for name in constants)
        known = all(name in self.graph.initializers for name in constants)
        flat = all(len(self.graph.initializers[name].dims) == 1 for name in constants[1:] if known)
        return alone and known and flat and not attribute(node, "transA")

    def _same_channels(self, names: Sequence[str]) -> bool:
        shapes = [self.graph.shapes.get(name, ()) for name in names]
        return shapes[0] == shapes[1] and len(self.ids[names[0]]) == len(self.ids[names[1]])

    def _is_spatial_mean(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "ReduceMean" or len(node.input) < 2:
            return False
        axes = self.graph.initializers.get(node.input[1])
        if axes is None:
            return False
        rank = len(self.graph.shapes.get(node.input[0], ()))
        found = {int(axis) % max(rank, 1) for axis in numpy_helper.to_array(axes)}
        return rank == 4 and found == {2, 3}

    def _flattens(self, node: onnx.NodeProto) -> bool:
        """Whether a reshape only drops spatial sizes of one."""
        if node.op_type not in ("Reshape", "Flatten", "Squeeze"):
            return False
        before = self.graph.shapes.get(node.input[0], ())
        after = self.graph.shapes.get(node.output[0], ())
        return len(before) == 4 and before[2:] == (1, 1) and after[1:] == before[1:2]

    def _read_by_tail(self, node: onnx.NodeProto) -> bool:
        """Whether all that reads a branch here is the class product, whose rows can compensate.

        The pattern is (B, C, h, w) -> Reshape (B, C, h w) -> MatMul with rows (B, K, C) that were
        gathered from a constant (classes, C), or are that constant.
        """
        if node.op_type != "Reshape" or self.graph.stage(node) != "tail":
            return False
        products = self.graph.consumers.get(str(node.output[0]), [])
        if len(products) != 1 or products[0].op_type != "MatMul":
            return False
        rows = str(products[0].input[0])
        gather = self.graph.producers.get(rows)
        if gather is not None and gather.op_type == "Gather":
            if len(self.graph.consumers[rows]) != 1:
                return False
            rows = str(gather.input[0])
        ids = self.ids[str(node.input[0])]
        table = self.graph.initializers.get(rows)
        if table is None or table.dims[-1] != len(ids) or len(self.graph.consumers[rows]) != 1:
            return False
        self.readers.append((rows, 0, ids.reshape(*[1] * (len(table.dims) - 1), -1)))
        return True


def equalize(graph: Graph, peaks: Mapping[str, Sequence[float]], strength: float) -> Graph | None:
    """Return the same network with its channels balanced, or None if nothing can be.

    Args:
        graph: backbone, branches and tail.
        peaks: largest magnitude of each channel, by activation.
        strength: 0 gives weights that read the channels all the say, 1 the activations.
    """
    channels = ChannelGroups(graph)
    groups = channels.groups
    activation = _activation_peaks(channels, peaks)
    weight = _weight_peaks(channels)
    free = np.ones(len(activation), bool)
    free[groups[list(channels.fixed)]] = False
    movable = (activation > _TINY) & (weight > _TINY) & free
    if not movable.any():
        return None
    factors = np.ones(len(movable))
    factors[movable] = activation[movable] ** strength / weight[movable] ** (1 - strength)
    _centre(channels, factors, movable)
    factors = np.clip(factors, 1 / LIMIT, LIMIT)[groups]
    _keep_clips_above_ranges(channels, factors, peaks, free[groups])
    return _with_divided_clips(_rescaled(channels, factors), channels, factors)


def _with_rank(table: NDArray[Any], rank: int) -> NDArray[Any]:
    """Return a matrix with dimensions of one appended."""
    return table.reshape(*table.shape, *[1] * (rank - 2))


def _connected(count: int, pairs: Sequence[tuple[Ids, Ids]]) -> Ids:
    """Return the number of the component that each of `count` ids is in; pairs are connected."""
    none = np.zeros(0, np.int64)
    rows = np.concatenate([none, *(first for first, _ in pairs)])
    columns = np.concatenate([none, *(second for _, second in pairs)])
    edges = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


def _activation_peaks(
    channels: ChannelGroups, peaks: Mapping[str, Sequence[float]]
) -> NDArray[np.float64]:
    """Return the largest magnitude that the channels of each group show."""
    found = np.zeros(channels.groups.max(initial=-1) + 1)
    for name, ids in channels.ids.items():
        if len(peaks.get(name, ())) == len(ids):
            np.maximum.at(found, channels.groups[ids], np.asarray(peaks[name]))
    return found


def _weight_peaks(channels: ChannelGroups) -> NDArray[np.float64]:
    """Return how large the weights are that read each group, as a share of their own row's.

    Weights have a step for each row (output channel). So a depthwise convolution, whose rows
    read a single channel, is content with any factor.
    """
    found = np.zeros(channels.groups.max(initial=-1) + 1)
    for name, rows, ids in channels.readers:
        values = np.abs(channels.graph.weight(name))
        others = tuple(axis for axis in range(values.ndim) if axis != rows)
        shares = values / np.maximum(values.max(axis=others, keepdims=True), _TINY)
        np.maximum.at(found, channels.groups[np.broadcast_to(ids, values.shape)], shares)
    return found


def _centre(
    channels: ChannelGroups, factors: NDArray[np.float64], movable: NDArray[np.bool_]
) -> None:
    """Give the factors of all groups that meet in a value a geometric mean of one.

    What meets there shares a range, so its channels must be even among each other; the common
    factor is free, and limits would bite without this.
    """
    values = [channels.groups[ids] for ids in channels.ids.values()]
    together = _connected(len(factors), [(groups[:-1], groups[1:]) for groups in values])
    for number in np.unique(together[movable]):
        own = movable & (together == number)
        factors[own] /= np.exp(np.log(factors[own]).mean())


def _keep_clips_above_ranges(
    channels: ChannelGroups,
    factors: NDArray[np.float64],
    peaks: Mapping[str, Sequence[float]],
    free: NDArray[np.bool_],
) -> None:
    """Lower factors until no channel's clip is below the range that all of its value share.

    Then a quantizer over that range does the clip's work: what a channel would cut off lies
    beyond the range.
    """
    for node, high, ids in channels.clips * _ROUNDS:
        seen = np.asarray(peaks.get(str(node.output[0]), ()))
        if len(seen) == len(ids):
            most = high / max(float((seen / factors[ids]).max()), _TINY)
            over = ids[free[ids] & (factors[ids] > most)]
            factors[np.isin(channels.groups, channels.groups[over])] = most


def _with_divided_clips(
    graph: Graph, channels: ChannelGroups, factors: NDArray[np.float64]
) -> Graph:
    """Return the graph with a bound by channel in place of each Clip whose channels differ."""
    model = graph.model
    nodes = list(model.graph.node)
    clips = {str(node.name): (high, ids) for node, high, ids in channels.clips}
    del model.graph.node[:]
    for node in nodes:
        high, ids = clips.get(str(node.name), (0.0, np.zeros(0, np.int64)))
        model.graph.node.append(node)
        if (factors[ids] != 1).any():
            output, bound = str(node.output[0]), f"{node.name}/bound"
            rank = len(graph.shapes[output])
            values = (high / factors[ids]).astype(np.float32).reshape(-1, *[1] * (rank - 2))
            model.graph.initializer.append(numpy_helper.from_array(values, bound))
            make = onnx.helper.make_node
            relu = make("Relu", node.input[:1], [f"{output}/relu"], node.name)
            least = make("Min", [f"{output}/relu", bound], [output], f"{node.name}/Min")
            model.graph.node[-1].CopyFrom(relu)
            model.graph.node.append(least)
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _rescaled(channels: ChannelGroups, factors: NDArray[np.float64]) -> Graph:
    """Return the graph with weights divided where channels are written, multiplied where read."""
    changed: dict[str, NDArray[np.float64]] = {}

    def scale(name: str, by: NDArray[np.float64]) -> None:
        changed[name] = changed.get(name, channels.graph.weight(name)) * by

    for node, ids in channels.writers:
        by = 1 / factors[ids]
        rows = 0 if node.op_type == "Conv" or attribute(node, "transB") else 1
        rank = len(channels.graph.initializers[node.input[1]].dims)
        column = _with_rank(by[:, None], rank)
        scale(str(node.input[1]), column if rows == 0 else column.T)
        if len(node.input) > 2 and node.input[2]:
            scale(str(node.input[2]), by)
    for name, _, ids in channels.readers:
        scale(name, factors[ids])
    return channels.graph.with_weights(changed)
