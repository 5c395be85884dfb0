"""Foreign state dicts: what wrappers left in their names, and what stands beside the model."""

from __future__ import annotations

import os
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.backbone import file_source
from tame_deploy.model.checkpoint import choose_part, is_averaged, load_checkpoint

__all__ = [
    "Weights",
    "auxiliary_names",
    "fit",
    "is_optional",
    "load_file",
    "load_state",
    "read_weights",
]

#: How the names of auxiliary heads begin in googlenet and inception_v3.
_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")

#: Names of these modules are left by wrappers wherever they were put: around all, or around parts.
_WRAPPERS = frozenset(["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])

#: First names of what training keeps beside a network: losses, metrics, a counter of averages.
_BESIDE = re.compile(r"loss|criterion|metric|acc(uracy)?$|^(train|val|valid|test)_|^n_averaged$")


@dataclass(frozen=True)
class Weights:
    """A file's tensors by name, which file and part they are of, and what was chosen."""

    state: dict[str, Tensor]
    source: WeightsSource
    notes: tuple[str, ...] = ()


def load_file(module: nn.Module, weights: str) -> tuple[WeightsSource, tuple[str, ...]]:
    """Load a file's weights into a module; return where they came from, and what to know of it.

    Raises:
        InputError: if the file cannot be read or does not fit.
    """
    read = read_weights(weights)
    return read.source, (*read.notes, *load_state(module, read.state, weights))


def read_weights(weights: str) -> Weights:
    """Return the weights in FILE, or in a part of it: FILE#state_dict_ema.

    Raises:
        InputError: if there is no such file or part, or no tensors in it.
    """
    path, part = weights, None
    if not os.path.exists(weights) and "#" in weights:
        path, _, part = weights.rpartition("#")
    if not os.path.exists(path):
        raise InputError(
            f"--weights {weights}: no such file; expected default, random, "
            "the name of torchvision weights such as IMAGENET1K_V1, or a file"
        )
    loaded, _ = load_checkpoint(path)
    tensors, chosen, others = choose_part(loaded, Path(path), part)
    source = file_source(Path(path), chosen if part or others else "")
    notes = (_chosen(path, chosen or "the file's own tensors", others),) if others else ()
    return Weights(tensors, source, notes)


def _chosen(path: str, chosen: str, others: Collection[str]) -> str:
    averaged = [name for name in (chosen, *others) if is_averaged(name)]
    kind = " (averaged weights)" if is_averaged(chosen) else " (plain weights)" if averaged else ""
    takes = " or ".join(f"--weights {path}#{name}" for name in list(others)[:3])
    return f"took {chosen}{kind} of {Path(path).name}; {takes} takes the other"


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Load weights into a module; return what was left out of them.

    Auxiliary heads, which only training uses, may be missing or of other shapes.

    Raises:
        InputError: naming what does not fit.
    """
    expected = module.state_dict()
    fitting, notes = fit(state, module, source)
    auxiliary = auxiliary_names(module)
    fitting = {
        name: tensor
        for name, tensor in fitting.items()
        if not name.startswith(auxiliary)
        or (name in expected and tensor.shape == expected[name].shape)
    }
    misfits = [
        f"{name} is {list(fitting[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in fitting and fitting[name].shape != expected[name].shape
    ]
    kinds = [
        f"{name} holds {fitting[name].dtype}, expected floating point"
        for name in expected
        if name in fitting
        and expected[name].is_floating_point()
        and not fitting[name].is_floating_point()
    ]
    loadable = OrderedDict(fitting)
    missing = [n for n in expected if n not in loadable and not is_optional(n, auxiliary)]
    unknown = [name for name in loadable if name not in expected]
    problems = [
        f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (
            ("shapes:", misfits),
            ("types:", kinds),
            ("lacks", missing),
            ("unknown:", unknown),
        )
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit the backbone: {'; '.join(problems)}")
    # Some models (mnasnet) ask the state dict which version of them wrote it.
    loadable._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]
    module.load_state_dict(loadable, strict=False)
    return notes


def auxiliary_names(module: nn.Module) -> tuple[str, ...]:
    """Return how names begin that play no role when the module classifies.

    Only modules that say `aux_logits` have auxiliary heads; in others, a part of such a name is
    like any other. What a module has no part for is left out of a file all the same.
    """
    if isinstance(getattr(module, "aux_logits", None), bool):
        return _AUXILIARY_HEADS
    return tuple(head for head in _AUXILIARY_HEADS if not hasattr(module, head.rstrip(".")))


def is_optional(name: str, auxiliary: tuple[str, ...]) -> bool:
    """Whether a file may lack a name of the module, of which some begin as auxiliary heads do."""
    return name.endswith("num_batches_tracked") or name.startswith(auxiliary)


def fit(
    state: Mapping[str, Tensor], module: nn.Module, source: str = ""
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return a state dict under the names that a module expects, and notes of what was left out.

    What wrappers put before or between names goes; so does any prefix under which most names fit.
    """
    expected = module.state_dict()
    auxiliary = auxiliary_names(module)
    known = dict(_unwrapped(state, expected))
    prefixes = _prefixes(known, expected)
    added = _prefixes(expected, known)
    most = max(prefixes.values(), default=0)
    if added and max(added.values()) > max(most, len(expected) // 2):
        outer = max(added, key=lambda prefix: added[prefix])  # the module wraps what the file is of
        return {f"{outer}{name}": tensor for name, tensor in known.items()}, ()
    if not most:
        return known, ()
    alike = sorted((p for p, count in prefixes.items() if count == most), key=_by_likelihood)
    chosen = alike[0]
    inside = {
        _known_name(name.removeprefix(chosen), expected): tensor
        for name, tensor in known.items()
        if name.startswith(chosen)
    }
    whole = all(name in inside or is_optional(name, auxiliary) for name in expected)
    beside = [name for name in known if not name.startswith(chosen)]
    if not chosen and whole:
        beside = [n for n in known if n not in expected and _BESIDE.search(n.partition(".")[0])]
    if not whole:  # something of the network is elsewhere: the message is to name it
        return inside | {name: known[name] for name in beside}, ()
    left = {name: tensor for name, tensor in inside.items() if name not in beside}
    return left, _left_out(chosen, alike[1:], beside, source)


def _left_out(
    chosen: str, alike: Collection[str], beside: Collection[str], source: str
) -> tuple[str, ...]:
    notes = []
    if alike:
        names = [prefix.rstrip(".") or "names without a prefix" for prefix in (chosen, *alike)]
        takes = " or ".join(f"--weights {source}#{name}" for name in names[1:])
        notes.append(f"took {names[0]} of {Path(source).name}; {takes} takes the other")
    others = [name for name in beside if not name.startswith(tuple(filter(None, alike)))]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        listed = f"{', '.join(others[:3])}{more}"
        notes.append(f"left out {listed} of {Path(source).name}: not of the backbone")
    return tuple(notes)


def _unwrapped(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> list[tuple[str, Tensor]]:
    """Return a state dict's items without what wrappers put into names, if that fits better."""
    bare = {name: ".".join(p for p in name.split(".") if p not in _WRAPPERS) for name in state}

    def fitting(names: Collection[str]) -> int:
        return max(_prefixes(names, expected).values(), default=0)

    if len(set(bare.values())) == len(bare) and fitting(bare.values()) > fitting(state):
        return [(bare[name], tensor) for name, tensor in state.items()]
    return list(state.items())


def _prefixes(names: Collection[str], expected: Collection[str]) -> Counter[str]:
    """Return how many names are expected ones, by what stands before them."""
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in expected:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    return counts


def _by_likelihood(prefix: str) -> tuple[bool, int]:
    return is_averaged(prefix), len(prefix)


def _known_name(name: str, expected: Collection[str]) -> str:
    """Return a parameter's name of today: densenet's published files predate it."""
    if name in expected:
        return name
    modern = name
    for part in ("norm", "relu", "conv"):
        for number in ("1", "2"):
            modern = modern.replace(f".{part}.{number}.", f".{part}{number}.")
    return modern if modern in expected else name
