"""manifest.json: everything that a user of an artifact must know, checked when it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from tame_deploy.artifact.decoding import decode, parse_object
from tame_deploy.artifact.types import (
    ExplainMode,
    HeadConfig,
    ImageSpec,
    MapKind,
    Task,
    TensorSpec,
)
from tame_deploy.errors import IncompatibleArtifactError, ManifestError

__all__ = [
    "SCHEMA_VERSION",
    "CalibrationSummary",
    "FidelityReport",
    "GraphIdentity",
    "GraphSpec",
    "Manifest",
    "ParityReport",
    "Precision",
    "WeightsSource",
]

SCHEMA_VERSION = 4

Precision = Literal["fp32", "fp16", "int8", "int8+fp16"]

#: How many dimensions each tensor of the graph contract has.
_RANKS = {"images": 4, "class_ids": 2, "logits": 2, "explained": 2, "maps": 4}


@dataclass(frozen=True)
class GraphSpec:
    """What the graph can be asked.

    `ranks` is how many of the most likely classes can be named by -1 in `class_ids` (selectable),
    or are explained each time (predicted); 0 where every class is explained (all). `contrast` is
    whether numbers below -1 ask for one class and not another (artifact/contrast.py).
    """

    explain: ExplainMode
    ranks: int
    maps: MapKind
    opset: int
    contrast: bool = False


@dataclass(frozen=True)
class WeightsSource:
    """Where weights came from; `random` ones are good for measuring speed only."""

    source: str
    random: bool = False
    sha256: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class ParityReport:
    """How far a backend is from the PyTorch network.

    Errors are shares of the range of the reference values; `flat_maps`, `same_for_pictures` and
    `same_for_classes` count what would make an explanation worthless.
    """

    pictures: int
    top1_agreement: float
    logit_error: float
    map_error: float
    map_correlation: float
    flat_maps: int
    same_for_pictures: int
    same_for_classes: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the maps themselves, in words."""
        found = []
        if self.flat_maps:
            found.append(f"{self.flat_maps} of the maps are flat: they explain nothing")
        if self.same_for_pictures:
            found.append("maps of different pictures are the same")
        if self.same_for_classes:
            found.append("maps of different classes are the same")
        return tuple(found)


@dataclass(frozen=True)
class CalibrationSummary:
    """Which pictures set the ranges of a quantized graph; calibration.json has the rest."""

    key: str
    source: str
    pictures: int
    seed: int


@dataclass(frozen=True)
class FidelityReport:
    """How far a graph of lower precision is from its float32 parent, on pictures held out.

    Shares and correlations are in [0, 1]; `peak_shift` is in pixels of the network's picture.
    `maps` of the `pictures` explain the same class in both. `average_drop` and `increase` are
    differences in percentage points to the parent's, by share of the map kept. `floor` is what was
    asked for; `allowed_below` says that it was not reached and that this was allowed.
    """

    pictures: int
    maps: int
    top1_agreement: float
    top5_agreement: float
    top1: float | None
    top1_fp32: float | None
    logit_cosine: float
    pearson_mean: float
    pearson_5th: float
    pearson_worst: float
    pearson_worst_picture: str
    spearman_mean: float
    spearman_5th: float
    spearman_worst: float
    spearman_worst_picture: str
    iou_15: float
    iou_50: float
    peak_shift: float
    flat_maps: int
    flat_maps_fp32: int
    average_drop: dict[str, float]
    increase: dict[str, float]
    floor: dict[str, float]
    allowed_below: bool


@dataclass(frozen=True, kw_only=True)
class GraphIdentity:
    """The fields that fix what the graph means: its identity text says them, and no others.

    `auxiliary` names the network whose layers `feature_layers` are, None where that is the backbone
    (P-TAME); its weights are then among `weights`.

    A field that is added here, or to what they hold, needs a default that says what graphs were
    before it, and a higher `SCHEMA_VERSION` (docs/artifact.md#new-fields).
    """

    backbone: str
    feature_layers: tuple[str, ...]
    head: HeadConfig
    classes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageSpec
    graph: GraphSpec
    weights: dict[str, WeightsSource]
    labels: str = "labels.txt"
    kind: Literal["explainer"] = "explainer"
    precision: Precision = "fp32"
    target: Literal["cpu", "cpu-vnni", "tensorrt"] | None = None
    parents: tuple[str, ...] = ()
    task: Task = "multiclass"
    auxiliary: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(GraphIdentity):
    """The artifact's own description (docs/artifact.md#manifestjson lists every field).

    `identity_text` repeats the fields of `GraphIdentity` as they were when the graph was written;
    the graph carries the hash of its bytes. `with_identity` makes it. The other fields stand here
    alone, so none has a default: a manifest that lost one would lack a warning without a sign.
    """

    name: str
    files: dict[str, str]
    calibration: CalibrationSummary | None
    fidelity: FidelityReport | None
    parity: ParityReport | None
    tool_versions: dict[str, str]
    schema_version: int
    identity_text: str = ""

    @property
    def speed_only(self) -> bool:
        """Whether some weights are random, so that classes and maps mean nothing."""
        return any(source.random for source in self.weights.values())

    def identity(self) -> str:
        """Return the sha256 of the identity text; the ONNX file carries it too."""
        return hashlib.sha256(self.identity_text.encode()).hexdigest()

    def with_identity(self) -> Manifest:
        """Return the manifest of a new graph: its identity text says what its fields say."""
        plain = self.to_dict()
        said = {item.name: plain[item.name] for item in dataclasses.fields(GraphIdentity)}
        return dataclasses.replace(self, identity_text=_sorted_json(said))

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as plain JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        ordered = self.to_dict()
        first = {key: ordered.pop(key) for key in ("schema_version", "kind", "name", "backbone")}
        return json.dumps(first | ordered, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest and check every field; one of an older schema becomes one of today's.

        Raises:
            ManifestError: malformed JSON; a missing, unknown or ill-typed field; counts that
                contradict each other.
            IncompatibleArtifactError: written by a newer tame-deploy, or edited in what fixes the
                graph's meaning.
        """
        raw = parse_object(text, "manifest.json")
        _check_version(raw)
        manifest: Manifest = decode(cls, raw, "manifest")
        if manifest.schema_version < 1:
            raise ManifestError(
                f"schema_version is {manifest.schema_version}; expected 1 to {SCHEMA_VERSION}"
            )
        _check_consistent(manifest)
        if manifest.schema_version == 1:
            text_of_1 = _identity_text_of_schema_1(raw)
            manifest = dataclasses.replace(manifest, identity_text=text_of_1)
        _check_identity(manifest)
        return dataclasses.replace(manifest, schema_version=SCHEMA_VERSION)


def _check_version(raw: dict[str, Any]) -> None:
    version = raw.get("schema_version")
    if type(version) is not int:
        return  # the decoder says what it thinks of that
    if version > SCHEMA_VERSION:
        raise IncompatibleArtifactError(
            f"artifact has schema version {version}; this tame-deploy reads up to "
            f"{SCHEMA_VERSION}. Upgrade: pip install -U tame-deploy"
        )
    if version == 1 and "identity_text" in raw:
        raise ManifestError(
            "schema_version is 1 beside an identity_text, which schema 1 did not have; expected "
            f"{SCHEMA_VERSION}. Undo the edit, or export the artifact again"
        )


def _sorted_json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _identity_text_of_schema_1(raw: dict[str, Any]) -> str:
    """Return the text that schema 1 hashed and did not keep: what its manifest.json says.

    For artifacts of schema 1 alone, and never to be changed: they are to be opened for ever.
    """
    later = ("name", "files", "parity", "fidelity", "calibration", "tool_versions")
    return _sorted_json({key: value for key, value in raw.items() if key not in later})


def _check_identity(manifest: Manifest) -> None:
    """Check that the manifest says what its identity text says."""
    if not manifest.identity_text:
        raise ManifestError("manifest.identity_text is missing or empty")
    said = parse_object(manifest.identity_text, "manifest.identity_text")
    said.pop("schema_version", None)  # schema 1 hashed it too
    meant = decode(GraphIdentity, said, "manifest.identity_text")
    names = sorted(item.name for item in dataclasses.fields(GraphIdentity))
    edited = [name for name in names if getattr(manifest, name) != getattr(meant, name)]
    if edited:
        raise IncompatibleArtifactError(
            f"model.onnx was not exported with this manifest.json: {', '.join(edited)} "
            f"{'is' if len(edited) == 1 else 'are'} not what identity_text says. Undo the edit, or "
            "export the artifact again"
        )


def _check_consistent(manifest: Manifest) -> None:
    layers, channels = len(manifest.feature_layers), len(manifest.head.channels)
    if layers != channels:
        raise ManifestError(f"{layers} feature layers but a head for {channels}")
    if manifest.classes != manifest.head.classes:
        raise ManifestError(
            f"classes is {manifest.classes} but the head has {manifest.head.classes}"
        )
    if manifest.task == "binary" and manifest.classes != 2:
        raise ManifestError(f"task is binary but there are {manifest.classes} classes; expected 2")
    parts = ["auxiliary"] * (manifest.auxiliary is not None) + ["backbone", "head"]
    if sorted(manifest.weights) != parts:
        wanted = ", ".join(parts[:-1]) + " and head"
        raise ManifestError(f"weights names {sorted(manifest.weights)}; expected {wanted}")
    inputs = ["images", "class_ids"] if manifest.graph.explain == "selectable" else ["images"]
    for field_name, expected in (("inputs", inputs), ("outputs", ["logits", "explained", "maps"])):
        found = [(spec.name, len(spec.shape)) for spec in getattr(manifest, field_name)]
        if found != [(name, _RANKS[name]) for name in expected]:
            raise ManifestError(f"{field_name} is {found}; expected {', '.join(expected)}")
    for name in ("model.onnx", manifest.labels):
        if name not in manifest.files:
            raise ManifestError(f"files does not list {name}")
