"""Golden cases in Python: what a case asks, and how its answer is compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import tame_deploy
from tame_deploy.picture.preprocess import load_image

HERE = Path(__file__).parent
CASES = HERE / "cases.json"
PICTURES = HERE / "pictures"

LOGITS_RELATIVE, MAPS_ABSOLUTE = 1e-4, 1e-3


def read_cases() -> list[dict[str, Any]]:
    return json.loads(CASES.read_text())


@dataclass(frozen=True)
class Answer:
    logits: NDArray[np.float32]  # (N, C)
    class_ids: NDArray[np.int64]  # (N, K)
    maps: NDArray[np.float32]  # (N, K, h, w)

    def rounded(self) -> dict[str, Any]:
        """Return it as JSON of no more digits than are compared."""
        return {
            "logits": [[float(f"{x:.7g}") for x in row] for row in self.logits],
            "class_ids": self.class_ids.tolist(),
            "map_size": [self.maps.shape[3], self.maps.shape[2]],
            "maps": [round(float(x), 5) for x in self.maps.ravel()],
        }

    def check(self, expected: dict[str, Any]) -> None:
        logits = np.asarray(expected["logits"])
        assert np.abs(self.logits - logits).max() <= LOGITS_RELATIVE * np.abs(logits).max()
        assert self.class_ids.tolist() == expected["class_ids"]
        assert [self.maps.shape[3], self.maps.shape[2]] == expected["map_size"]
        assert np.abs(self.maps.ravel() - expected["maps"]).max() <= MAPS_ABSOLUTE


class Runner:
    """Runs cases on the Python runtime."""

    def __init__(self, artifact: Path) -> None:
        self._explainer = tame_deploy.load(artifact, backend="onnxruntime")

    def run(self, case: dict[str, Any]) -> Answer:
        pictures = [_picture(one) for one in case["pictures"]]
        found = self._explainer.explain(
            pictures,
            case.get("class_ids"),
            top_k=case.get("top"),
            versus=case.get("versus"),
            batch_size=case.get("batch_size", 8),
        )
        maps = found.maps
        if "map_size" in case:
            maps = np.stack([[_resized(heat, case["map_size"]) for heat in row] for row in maps])
        return Answer(found.logits, found.class_ids, maps)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._explainer.close()


def _picture(one: dict[str, str]) -> Any:
    path = PICTURES / one["file"]
    if one["as"] != "gray":
        return path  # other orders of the same channels show the same picture
    # As grey pixels the red channel is given, whatever the file's colours are.
    red = np.asarray(load_image(path))[:, :, :1]
    return np.repeat(red, 3, axis=2)


def _resized(heat: NDArray[np.float32], size: list[int]) -> NDArray[np.float32]:
    found = Image.fromarray(heat).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return np.asarray(found)
