"""An epsilon that the exporter takes for zero: what comes of it is told, with what to change."""

from __future__ import annotations

import pytest

from tame_deploy.errors import ParityError
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import HeadRequest, build_network

SOURCE = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.tail = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
    def forward(self, x):
        x = self.stem(x).mean((2, 3)) * 0
        return self.tail(x / ((x * x).sum(1, keepdim=True) + 1e-9).sqrt())
"""


def test_an_epsilon_that_the_exporter_leaves_out_is_named(tmp_path):
    (tmp_path / "lost.py").write_text(SOURCE)
    request = BackboneRequest(f"{tmp_path}/lost.py:Net", weights="random", image_size=(16, 16))
    network = build_network(load_backbone(request), HeadRequest("random"), ["stem"])
    with pytest.raises(ParityError, match="nan at batch .* finite numbers; .* take 1e-6"):
        export_artifact(network, tmp_path / "out", ExportOptions())
