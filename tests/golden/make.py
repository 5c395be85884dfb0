"""Write the golden cases anew: `python -m tests.golden.make`, when the bundled demo has changed.

What stands in cases.json was computed once by the Python runtime on ONNX Runtime; both languages
are held to it (tests/golden/test_golden.py, cpp/tests/api/golden_test.cpp).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tame_deploy
from tests.golden.replay import CASES, PICTURES, Runner

BUNDLED = Path(tame_deploy.__file__).parent / "data" / "pictures"


def mosaic(*names: str, size: tuple[int, int]) -> Image.Image:
    """Return bundled pictures side by side, the way pictures of several things look."""
    tiles = [Image.open(BUNDLED / f"{name}.png") for name in names]
    whole = Image.new("RGB", (128 * len(tiles), 128))
    for place, tile in enumerate(tiles):
        whole.paste(tile, (128 * place, 0))
    return whole.resize(size, Image.Resampling.BICUBIC)


def draw_pictures() -> None:
    PICTURES.mkdir(exist_ok=True)
    wide = mosaic("ring-1", "star-1", size=(230, 150))
    tall = mosaic("cross-2", size=(97, 181))
    wide.save(PICTURES / "wide.jpg", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to be upright
    tall.rotate(90, expand=True).save(PICTURES / "turned.jpg", quality=90, exif=exif)
    wide.convert("L").save(PICTURES / "gray.png")
    wide.resize((115, 75)).quantize(16).save(PICTURES / "palette.png")
    deep = np.asarray(tall.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(PICTURES / "deep.png")
    tall.convert("CMYK").save(PICTURES / "cmyk.jpg", quality=90)
    tall.convert("L").save(PICTURES / "gray.jpg", quality=90, progressive=True)


def single(name: str, file: str, kind: str = "encoded", **asked: Any) -> dict[str, Any]:
    return {"name": name, "pictures": [{"file": file, "as": kind}], **asked}


def batch(name: str, **asked: Any) -> dict[str, Any]:
    pictures = [{"file": "wide.jpg", "as": "encoded"}, {"file": "turned.jpg", "as": "bgr"}]
    return {"name": name, "pictures": pictures, **asked}


def cases() -> list[dict[str, Any]]:
    files = sorted(path.name for path in PICTURES.iterdir())
    small = {"map_size": [8, 8]}
    return [
        *(single(f"file {name}", name, **small) for name in files),
        *(single(f"pixels {kind}", "wide.jpg", kind, **small)
          for kind in ("rgb", "bgr", "gray", "rgba", "bgra")),
        single("native map", "turned.jpg"),
        single("larger map", "gray.png", map_size=[40, 36]),
        single("chosen class", "wide.jpg", class_ids=[[3]], **small),
        single("chosen classes and ranks", "wide.jpg", class_ids=[[-1, 5, -1]], **small),
        single("three likeliest", "wide.jpg", top=3, **small),
        batch("batch", **small),
        batch("classes of each", class_ids=[[0], [4]], **small),
        batch("one at a time", batch_size=1, top=2, **small),
        single("class out of range", "wide.jpg", class_ids=[[6]], error="InputError"),
        single("no such class", "wide.jpg", class_ids=[[-2]], error="InputError"),
        single("rank out of range", "wide.jpg", class_ids=[[-1] * 6], error="InputError"),
        single("too many likeliest", "wide.jpg", top=6, error="InputError"),
        batch("rows that do not fit", class_ids=[[0], [1], [2]], error="InputError"),
        single("classes and likeliest", "wide.jpg", class_ids=[[0]], top=1, error="InputError"),
        single("no picture", "../cases.json", error="InputError"),
        single("a class and not another", "wide.jpg", class_ids=[[3, 1]], versus=5, **small),
        batch("the likeliest and not another", top=2, versus=0, **small),
        single("a class and not itself", "wide.jpg", class_ids=[[3]], versus=3, error="InputError"),
        single("and not a class out of range", "wide.jpg", versus=6, error="InputError"),
    ]  # fmt: skip


def main() -> None:
    from tame_deploy.export.artifact_export import export_artifact
    from tame_deploy.export.options import ExportOptions
    from tame_deploy.model.backbones import BackboneRequest, load_backbone
    from tame_deploy.model.network import HeadRequest, build_network

    draw_pictures()
    found = cases()
    CASES.touch()  # one of the cases takes it for a picture
    with tempfile.TemporaryDirectory() as folder:
        network = build_network(load_backbone(BackboneRequest("demo")), HeadRequest())
        artifact = export_artifact(network, Path(folder) / "demo", ExportOptions())
        with Runner(artifact.path) as runner:
            for case in found:
                if "error" not in case:
                    case["expected"] = runner.run(case).rounded()
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in found)
    CASES.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
