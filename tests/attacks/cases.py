"""What somebody may do to an artifact, and how opening it has to fail, in Python and in C++.

Each case spoils a copy of the demo's artifact.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tame_deploy.artifact.directory import file_sha256
from tame_deploy.errors import (
    ArtifactError,
    BackendError,
    ChecksumError,
    IncompatibleArtifactError,
    ManifestError,
    TameError,
)

__all__ = ["ATTACKS", "Attack", "edit", "forge", "listed"]


@dataclass(frozen=True)
class Attack:
    """Spoils an artifact; opening it raises `error`, whose message has `words`.

    `stage` is what notices: "open" (open_artifact), "load" (what follows there), or "backend".
    In C++ it is the same error at the same place. `own_words` is for what JSON parsers say, and for
    places that pathlib spells otherwise; of those, C++ has the same `words`.
    """

    name: str
    spoil: Callable[[Path], object]
    error: type[TameError]
    words: str
    stage: str = "open"
    own_words: bool = False


def edit(path: Path, **changes: Any) -> None:
    """Change fields of the manifest."""
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def leave_out(path: Path, name: str) -> None:
    """Delete a field of the manifest."""
    manifest = path / "manifest.json"
    kept = json.loads(manifest.read_text())
    del kept[name]
    manifest.write_text(json.dumps(kept))


def edit_with_identity(path: Path, **changes: Any) -> None:
    """Change fields of the manifest where they fix the graph's meaning, identity text included."""
    said = json.loads(json.loads((path / "manifest.json").read_text())["identity_text"])
    edit(path, **changes, identity_text=json.dumps(said | changes))


def editing_with_identity(**changes: Any) -> Callable[[Path], None]:
    return lambda path: edit_with_identity(path, **changes)


def listed(path: Path) -> dict[str, str]:
    return json.loads((path / "manifest.json").read_text())["files"]


def image_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text())["image"]


def forge(path: Path, name: str, data: bytes) -> None:
    """Replace a file, checksum included."""
    (path / name).write_bytes(data)
    edit(path, files=listed(path) | {name: file_sha256(path / name)})


def editing(**changes: Any) -> Callable[[Path], None]:
    return lambda path: edit(path, **changes)


def inside(field: str, **changes: Any) -> Callable[[Path], None]:
    """Change fields of an object in the manifest."""

    def spoil(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        edit(path, **{field: manifest[field] | changes})

    return spoil


def replacing(old: str, new: str) -> Callable[[Path], None]:
    """Change the text of the manifest."""

    def spoil(path: Path) -> None:
        text = (path / "manifest.json").read_text()
        assert old in text
        (path / "manifest.json").write_text(text.replace(old, new, 1))

    return spoil


def writing(data: bytes) -> Callable[[Path], object]:
    return lambda path: (path / "manifest.json").write_bytes(data)


def listing(name: str) -> Callable[[Path], None]:
    """List one more file; a tempting one lies beside the artifact."""

    def spoil(path: Path) -> None:
        (path.parent / "secret").write_text("secret")
        edit(path, files=listed(path) | {name: "0" * 64})

    return spoil


def damaging(name: str, damage: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).unlink()
        if damage == "truncated":
            (path / name).write_bytes(data[: len(data) // 2])
        elif damage == "altered":
            (path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        elif damage == "a folder":
            (path / name).mkdir()
        elif damage == "a pipe":
            os.mkfifo(path / name)

    return spoil


def linking(name: str, target: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(target)

    return spoil


def link_out(path: Path) -> None:
    shutil.move(path / "labels.txt", path.parent / "secret")
    linking("labels.txt", str(path.parent / "secret"))(path)


def labels_outside(path: Path) -> None:
    (path.parent / "secret").write_text("secret")
    edit_with_identity(path, labels="../secret")
    edit(path, files=listed(path) | {"../secret": "0" * 64})


def file_for_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def too_large(path: Path) -> None:
    with (path / "manifest.json").open("w") as stream:
        stream.truncate(17 * 2**20)


def folder_for_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()
    (path / "manifest.json").mkdir()


def weights_outside(path: Path) -> None:
    """Have the graph read its weights from a file beside the artifact."""
    import onnx
    from onnx.external_data_helper import convert_model_to_external_data

    model = onnx.load(path / "model.onnx")
    convert_model_to_external_data(model, location="outside.bin", size_threshold=0)
    onnx.save(model, path / "model.onnx")
    data = (path / "model.onnx").read_bytes()
    assert data.count(b"outside.bin") > 1
    shutil.move(path / "outside.bin", path.parent / "side.bin")
    forge(path, "model.onnx", data.replace(b"outside.bin", b"../side.bin"))  # same length


def metadata_twice(path: Path) -> None:
    """Add an entry of another manifest to the graph's metadata, where the last one counts."""
    key, value = b"\x0a\x0dtame.manifest", b"\x12\x40" + b"0" * 64
    entry = key + value
    data = (path / "model.onnx").read_bytes()
    forge(path, "model.onnx", data + b"\x72" + bytes([len(entry)]) + entry)


OUTSIDE = ("../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:secret", "", "x\0y",
           "a/..", "//secret", "é/../..")  # fmt: skip
WEIGHTS = {"backbone": {"source": "x"}, "head": {"source": "x"}}
NOT_JSON = "manifest.json is not valid JSON"

FOLDERS = [
    Attack("nothing", shutil.rmtree, ArtifactError, "found nothing. Make one: tame-deploy export"),
    Attack("a file", file_for_folder, ArtifactError, "found a file. Make one"),
    Attack("no manifest", lambda path: (path / "manifest.json").unlink(), ManifestError,
           "it has no manifest"),
    Attack("manifest that is a folder", folder_for_manifest, ManifestError, "Errno 21"),
    Attack("manifest that is a link to itself", linking("manifest.json", "manifest.json"),
           ManifestError, "Errno 40"),
    Attack("manifest that is a pipe", damaging("manifest.json", "a pipe"), ManifestError,
           "it is no regular file"),
    Attack("manifest without end", linking("manifest.json", "/dev/zero"), ManifestError,
           "it is no regular file"),
    Attack("manifest that is no text", writing(b"\xff\xfe\x00"), ManifestError, "cannot be read"),
    Attack("manifest cut inside a letter", writing(b'{"\xf0\x9f\x98'), ManifestError,
           "bytes in position 2-4: unexpected end of data"),
    Attack("manifest too large to be one", too_large, ManifestError, "over 16 MiB"),
]  # fmt: skip

FILES = [
    *(Attack(f"{name}: {damage}", damaging(name, damage), ChecksumError,
             "Export the artifact again")
      for name in ("model.onnx", "labels.txt", "parity.npz")
      for damage in ("truncated", "altered", "missing", "a folder", "a pipe")),
    *(Attack(f"lists {name!r}", listing(name), ManifestError, "outside the artifact")
      for name in OUTSIDE),
    *(Attack(f"lists {name[:20]!r}", listing(name), ChecksumError, "is missing")
      for name in ("x" * 300, "it's", "new\nline", "\u200b é \U0001f600", "labels.txt/x")),
    *(Attack(f"lists {name!r}", listing(name), ChecksumError, "is not a file", own_words=True)
      for name in (".", "./", ".//.")),
    Attack("lists labels.txt by another name", listing(".//labels.txt/"), ChecksumError,
           "labels.txt was altered", own_words=True),
    Attack("link out of the artifact", link_out, ManifestError, "is a link to"),
    Attack("link to a device", linking("labels.txt", "/dev/zero"), ManifestError, "is a link to"),
    Attack("link to itself", linking("labels.txt", "labels.txt"), ChecksumError, "missing"),
    Attack("labels outside the artifact", labels_outside, ManifestError, "outside the artifact"),
    Attack("checksum that is none", listing("é" * 20), ChecksumError, "missing"),
    Attack("checksum of letters", editing(files={"model.onnx": "é" * 20, "labels.txt": ""}),
           ChecksumError, f"the manifest says {'é' * 16}…"),
]  # fmt: skip

JSON = [
    *(Attack(name, writing(data), ManifestError, NOT_JSON, own_words=True)
      for name, data in {
          "empty manifest": b"",
          "NUL after the manifest": b"{}\0",
          "two manifests": b"{} {}",
          "deep nesting": b"[" * 100_000,
          "deep nesting of objects": b'{"a":' * 100_000,
          "not a number": b'{"schema_version": NaN}',
          "infinity": b'{"schema_version": -Infinity}',
          "number beyond floats": b'{"schema_version": 1e400}',
          "half of a surrogate pair": rb'{"name": "\ud83d"}',
          "second half of a surrogate pair": rb'{"name": "\ude00\ud83d"}',
          "control character": b'{"name": "\n"}',
          "half of a surrogate pair that is replaced": rb'{"name": "\ud83d", "name": ""}',
      }.items()),
    Attack("listed half of a surrogate pair", listing("\ud800"), ManifestError, NOT_JSON,
           own_words=True),
    Attack("byte order mark", writing(b"\xef\xbb\xbf{}"), ManifestError, "Unexpected UTF-8 BOM"),
    Attack("list for a manifest", writing(b"[]"), ManifestError, "holds a list"),
    Attack("duplicate keys", replacing("\n}\n", ',"classes": [], "name": 3, "name": {}}'),
           ManifestError, "manifest.name is {}; expected a string"),
    Attack("no fields", writing(b"{}"), ManifestError,
           "manifest.backbone, manifest.calibration, manifest.classes"),
    *(Attack(f"no {name}", lambda path, name=name: leave_out(path, name), ManifestError,
             f"manifest.{name} is missing")
      for name in ("calibration", "fidelity", "parity", "tool_versions", "schema_version")),
    Attack("surprising fields", editing(surprise=1, **{"a\nb": 2}), ManifestError,
           "unknown key manifest.a\\nb; known: auxiliary, backbone,"),
    Attack("misspelt field", editing(claßes=6), ManifestError,
           "unknown key manifest.cla\\u00dfes; did you mean manifest.classes?"),
    Attack("newer artifact", editing(schema_version=99), IncompatibleArtifactError, "Upgrade"),
    Attack("huge version", editing(schema_version=10**30), IncompatibleArtifactError, "Upgrade"),
    Attack("no version", editing(schema_version=-(10**30)), ManifestError, "expected 1 to 4"),
    Attack("bool for a version", editing(schema_version=True), ManifestError, "is True; expected"),
]  # fmt: skip
FIELDS = [
    Attack("float for an int", editing(classes=6.0), ManifestError, "is 6.0; expected a whole"),
    Attack("text for an int", editing(classes="6"), ManifestError, "is '6'; expected a whole"),
    Attack("bool for an int", editing(classes=True), ManifestError, "is True; expected a whole"),
    Attack("huge int", editing(classes=10**30), ManifestError, f"classes is {10**30} but"),
    Attack("huge int for a float", inside("image", mean=[2**53, 0, 0]), ManifestError,
           "expected a number"),
    Attack("huge height", inside("image", height=2**64), ManifestError, "expected 1 to 8192"),
    Attack("negative width", inside("image", width=-1), ManifestError, "image width is -1"),
    Attack("two means", inside("image", mean=[0.5, 0.5]), ManifestError,
           "image has 2 means and"),
    Attack("bool for a mean", inside("image", mean=[0, True, 0]), ManifestError,
           "mean[1] is True; expected a number"),
    Attack("deviation of zero", inside("image", std=[1, 1e-300, -0.0]), ManifestError,
           "(1.0, 1e-300, -0.0)"),
    Attack("layout of another input", inside("image", layout="NCHW"), ManifestError,
           "expected NHWC normalised by the graph"),
    Attack("list for a choice", inside("image", crop=["center"]), ManifestError,
           "is ['center']; expected one of center, none"),
    Attack("long text", editing(classes="x'\n\0" * 50), ManifestError, "x'\\n\\x00"),
    Attack("nested value", editing(name=[[{"a": None}]] * 30), ManifestError,
           "is [[{'a': None}]"),
    Attack("deep value", replacing('"kind": "explainer"', f'"kind": {"[" * 400}{"]" * 400}'),
           ManifestError, "expected one of explainer"),
    Attack("text for a list", editing(feature_layers="ab"), ManifestError, "expected a list"),
    Attack("too few layers", editing(feature_layers=["a"]), ManifestError, "1 feature layers"),
    Attack("no channels", inside("head", channels=[]), ManifestError, "head has channels []"),
    Attack("other classes", editing(classes=7), ManifestError, "classes is 7 but the head has 6"),
    Attack("binary with six classes", editing(task="binary"), ManifestError,
           "task is binary but there are 6 classes; expected 2"),
    Attack("skip beside one channel a class", inside("head", width="classes"), ManifestError,
           "no skip connection"),
    Attack("branch wider than its layer", inside("head", width=[9000]), ManifestError,
           "head width is [9000] for layers of "),
    Attack("width of text in a list", inside("head", width=["wide"]), ManifestError,
           "manifest.head.width[0] is 'wide'; expected a whole number"),
    Attack("batch norm without branches", inside("head", branch="identity", skip=False),
           ManifestError, "has channels width, no batch norm and no skip"),
    Attack("ReciproCAM of several layers",
           inside("head", branch="recipro-cam", batch_norm=False, skip=False), ManifestError,
           "ReciproCAM reads one layer; found 3"),
    Attack("no weights", editing(weights={}), ManifestError, "weights names []"),
    Attack("more weights", inside("weights", **{"é'": {"source": "x"}}), ManifestError,
           """['backbone', 'head', "é'"]"""),
    Attack("weights of no auxiliary network", editing(auxiliary="resnet18"), ManifestError,
           "['backbone', 'head']; expected auxiliary, backbone and head"),
    Attack("auxiliary network without a name", inside("weights", auxiliary={"source": "x"}),
           ManifestError, "['auxiliary', 'backbone', 'head']; expected backbone and head"),
    Attack("number for an auxiliary network", editing(auxiliary=18), ManifestError,
           "manifest.auxiliary is 18; expected a string"),
    Attack("no outputs", editing(outputs=[]), ManifestError, "expected logits, explained, maps"),
    Attack("inputs of another graph", inside("graph", explain="all"), ManifestError,
           "[('images', 4), ('class_ids', 2)]; expected images"),
    Attack("null for an object", editing(image=None), ManifestError, "is None; expected an object"),
    Attack("empty report", editing(parity={}), ManifestError, "manifest.parity.flat_maps, "),
    Attack("labels not listed", editing(labels="other.txt"), ManifestError,
           "does not list other.txt"),
    Attack("files of numbers", editing(files={"model.onnx": 1}), ManifestError,
           "manifest.files.model.onnx is 1; expected a string"),
]  # fmt: skip

FOREIGN = "was not exported with this manifest"
IDENTITY = [
    Attack("edited preprocessing", inside("image", resize=200), IncompatibleArtifactError,
           f"{FOREIGN}.json: image is not what identity_text says"),
    Attack("three edits", editing(target="cpu", parents=["a"], weights=WEIGHTS),
           IncompatibleArtifactError, "parents, target, weights are not what"),
    Attack("auxiliary network that the graph has not",
           editing(auxiliary="a", weights=WEIGHTS | {"auxiliary": {"source": "x"}}),
           IncompatibleArtifactError, "auxiliary, weights are not what identity_text says"),
    Attack("no identity text", editing(identity_text=""), ManifestError, "missing or empty"),
    Attack("number for an identity text", editing(identity_text=1), ManifestError,
           "manifest.identity_text is 1; expected a string"),
    Attack("identity text that is a list", editing(identity_text="[]"), ManifestError,
           "manifest.identity_text holds a list"),
    Attack("deep identity text", editing(identity_text="[" * 100_000), ManifestError,
           "manifest.identity_text is not valid JSON", own_words=True),
    Attack("identity text of nothing", editing(identity_text="{}"), ManifestError,
           "manifest.identity_text.backbone, manifest.identity_text.classes, "),
    Attack("identity text of more", editing(identity_text='{"name": "x"}'), ManifestError,
           "unknown key manifest.identity_text.name; known: auxiliary, backbone, "),
    Attack("identity text that is ill-typed", editing_with_identity(classes="6"), ManifestError,
           "manifest.classes is '6'; expected a whole number"),
    Attack("older schema for a newer artifact", editing(schema_version=1), ManifestError,
           "schema_version is 1 beside an identity_text, which schema 1 did not have; expected 4"),
]  # fmt: skip

LATER = [
    Attack("edited preprocessing and identity text",
           lambda path: edit_with_identity(path, image=image_of(path) | {"resize": 200}),
           IncompatibleArtifactError, FOREIGN, stage="load"),
    Attack("identity text written otherwise", editing_with_identity(),
           IncompatibleArtifactError, FOREIGN, stage="load"),
    Attack("graph of two manifests", metadata_twice, IncompatibleArtifactError,
           FOREIGN, stage="load"),
    Attack("labels that are no text", lambda path: forge(path, "labels.txt", b"\xff\xfe"),
           ManifestError, "labels.txt cannot be read", stage="load"),
    Attack("too few labels", lambda path: forge(path, "labels.txt", b"a\r\nb\rc"), ManifestError,
           "has 3 lines; expected one for each of the 6 classes", stage="load"),
    Attack("no labels", lambda path: forge(path, "labels.txt", b""), ManifestError,
           "has 1 lines", stage="load"),
    Attack("garbage graph", lambda path: forge(path, "model.onnx", b"garbage"), BackendError,
           "onnxruntime cannot load", stage="backend"),
    Attack("empty graph", lambda path: forge(path, "model.onnx", b""), BackendError,
           "onnxruntime cannot load", stage="backend"),
    Attack("truncated graph",
           lambda path: forge(path, "model.onnx", (path / "model.onnx").read_bytes()[:-50]),
           BackendError, "onnxruntime cannot load", stage="backend"),
    Attack("graph whose weights lie outside", weights_outside, BackendError,
           "onnxruntime cannot load", stage="backend"),
]  # fmt: skip

ATTACKS = [*FOLDERS, *FILES, *JSON, *FIELDS, *IDENTITY, *LATER]
