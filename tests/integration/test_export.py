"""The exported graph equals the unfolded network, keeps the contract, and is refused if it lies."""

import json

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tame_deploy import load, open_artifact
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import VARIANTS, ImageSpec, variant_config
from tame_deploy.errors import BuildError, InputError, ParityError
from tame_deploy.export import artifact_export
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import FeatureTap, probe_layers
from tame_deploy.model.fused import Finish, FusedNetwork
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.runtime.verify.comparison import is_flat
from tests.conftest import TinyNet
from tests.unit.model.test_head import random_head


def tiny_network(
    variant="tame", layers=3, classes=5, size=(48, 48), widths=(4, 6, 8, 5), seed=0
) -> ExplainedNetwork:
    torch.manual_seed(seed)
    module = TinyNet(classes, widths).eval().requires_grad_(False)
    module.classifier.weight.data *= 8  # or all classes nearly tie
    image = ImageSpec(*size, min(size))
    backbone = Backbone("tiny", module, image, None, WeightsSource("test"))
    tap = FeatureTap(module, [f"stages.{4 - layers + i}" for i in range(layers)]).eval()
    features = probe_layers(tap, backbone.example)
    channels = tuple(feature.channels for feature in features)
    head = random_head(variant_config(variant, channels, classes), seed)
    return ExplainedNetwork(backbone, tap, features, head, WeightsSource("test"))


networks = st.builds(
    tiny_network,
    variant=st.sampled_from(list(VARIANTS)),
    layers=st.integers(1, 4),
    classes=st.one_of(st.integers(2, 9), st.just(1000)),
    size=st.tuples(st.integers(17, 75), st.integers(17, 75)),
    seed=st.integers(0, 99),
)


@settings(deadline=None, max_examples=40)
@given(networks, st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
@torch.no_grad()
def test_fused_equals_unfolded(network, batch, per_image, seed):
    check_fused(network, batch, per_image, seed, lambda fused, feeds: fused(**feeds))


def check_fused(network, batch, per_image, seed, run):
    image, classes = network.backbone.image, network.head.config.classes
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (batch, image.height, image.width, 3), generator=generator)
    class_ids = torch.randint(0, classes, (batch, per_image), generator=generator)
    mean, std = torch.tensor(image.mean), torch.tensor(image.std)
    normalised = ((pixels / 255.0 - mean) / std).permute(0, 3, 1, 2)
    logits, every = network(normalised)
    expected = every.gather(1, class_ids[..., None, None].expand(-1, -1, *every.shape[2:]))
    feeds = {"images": pixels.to(torch.uint8), "class_ids": class_ids}
    fused = FusedNetwork(network, maps="logits")
    found_logits, explained, maps = run(fused, feeds)
    assert torch.allclose(found_logits, logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(explained, class_ids)
    assert torch.allclose(maps, expected, rtol=1e-4, atol=2e-4 * float(expected.abs().max() + 1))


@pytest.mark.parametrize(
    ("variant", "layers", "classes", "size", "batch", "per_image"),
    [
        ("tame", 4, 1000, (48, 48), 1, 4),
        ("no-skip-no-batchnorm", 1, 5, (17, 75), 5, 1),
        ("sigmoid-branch", 3, 9, (75, 18), 2, 3),
        ("no-skip", 2, 2, (33, 41), 3, 2),
    ],
)
@torch.no_grad()
def test_the_onnx_file_equals_the_unfolded_network(
    tmp_path, variant, layers, classes, size, batch, per_image
):
    network = tiny_network(variant, layers, classes, size, seed=batch)
    export_artifact(network, tmp_path / "it", ExportOptions(maps="logits"), overwrite=True)

    def run(_fused, feeds):
        with load(tmp_path / "it") as explainer:
            outputs = explainer.backend.run({name: t.numpy() for name, t in feeds.items()})
        return tuple(torch.from_numpy(outputs[n]) for n in ("logits", "explained", "maps"))

    check_fused(network, batch, per_image, 7, run)


@pytest.mark.parametrize(
    ("options", "inputs", "explained"),
    [
        (ExportOptions(), {"images", "class_ids"}, ("batch", "k")),
        (ExportOptions("predicted"), {"images"}, ("batch", 1)),
        (ExportOptions("predicted", 3, "float32", "sigmoid"), {"images"}, ("batch", 3)),
        (ExportOptions("all", None, "uint8", "logits", 20), {"images"}, ("batch", 5)),
    ],
)
def test_the_graph_contract(tmp_path, options, inputs, explained):
    network = tiny_network()
    artifact = export_artifact(network, tmp_path / "it", options)
    manifest = artifact.manifest
    assert {spec.name for spec in manifest.inputs} == inputs
    assert manifest.outputs[1].shape == explained
    assert manifest.outputs[2].shape == (*explained, 12, 12)
    assert manifest.parity is not None
    assert manifest.parity.top1_agreement == 1.0
    assert manifest.parity.map_error < 1e-3
    assert manifest.parity.warnings == ()
    model = onnx.load(artifact.model)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == options.opset
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert props["tame.manifest"] == manifest.identity()
    with load(artifact.path) as explainer:
        pictures = np.random.default_rng(0).integers(0, 256, (4, 60, 50, 3), dtype=np.uint8)
        result = explainer.explain(pictures)
    expected = {"minmax": (0, 1), "sigmoid": (0, 1), "logits": (-np.inf, np.inf)}[options.maps]
    assert expected[0] <= result.maps.min() <= result.maps.max() <= expected[1]
    if options.explain == "all":
        assert result.class_ids.tolist() == [[0, 1, 2, 3, 4]] * 4
    else:
        likeliest = np.argsort(-result.logits, axis=1)[:, : result.class_ids.shape[1]]
        assert np.array_equal(result.class_ids, likeliest)


def test_the_tail_is_marked_and_holds_all_after_the_branches(demo_export):
    graph = onnx.load(demo_export / "model.onnx").graph
    tail = [node for node in graph.node if node.name.startswith("tail/")]
    rest = [node for node in graph.node if not node.name.startswith("tail/")]
    assert {"MatMul", "Resize", "ReduceMin", "ReduceMax", "Div"} <= {node.op_type for node in tail}
    assert not {"Resize", "ReduceMin", "Div"} & {node.op_type for node in rest}
    for node in graph.node:
        marks = {prop.key: prop.value for prop in node.metadata_props}
        expected = {"tame.precision": "float32"} if node in tail else {}
        assert marks == expected
    made_by_tail = {name for node in tail for name in node.output}
    assert not any(name in made_by_tail for node in rest for name in node.input)


def test_nothing_of_the_exporting_machine_is_in_the_file(demo_export):
    data = (demo_export / "model.onnx").read_bytes()
    for trace in (b"/home", b"site-packages", b".py", str(demo_export.parent).encode()):
        assert trace not in data


def test_one_channel_is_resized_and_never_all_classes(demo_export):
    model = onnx.shape_inference.infer_shapes(onnx.load(demo_export / "model.onnx"))
    classes = open_artifact(demo_export).manifest.classes
    tail = {name for n in model.graph.node if n.name.startswith("tail/") for name in n.output}
    seen = 0
    for value in model.graph.value_info:
        sizes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name in tail and len(sizes) >= 3:
            seen += 1
            assert sizes[1] != classes
    assert seen > 5


def test_minmax_of_a_flat_map_is_faint_and_not_noise():
    noise = torch.rand(1, 1, 9, 9)
    for magnitude in (0.0, 3.0, -500.0):
        flat = magnitude + noise * max(abs(magnitude) * 1e-6, 1e-9)
        assert Finish("minmax")(flat).max() < 0.01
    sharp = Finish("minmax")(500 + 5 * noise)
    assert (sharp.min(), sharp.max()) == (0, 1)


NEARLY_FLAT = [(8.0, 1e-6), (50.0, 1e-5), (-3.0, 1e-9)]


def nearly_flat_network(bias, scale):
    network = tiny_network()
    network.head.fuser.weight.data *= scale
    network.head.fuser.bias.data.fill_(bias)
    return network


@pytest.mark.parametrize("maps", ["minmax", "sigmoid", "logits"])
@pytest.mark.parametrize(("bias", "scale"), NEARLY_FLAT)
def test_nearly_flat_maps_are_flat_however_they_are_finished(maps, bias, scale):
    picture = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    with TorchBackend(nearly_flat_network(bias, scale), "uint8", maps=maps) as backend:
        found = backend.run({"images": picture, "class_ids": np.array([[0, 1], [2, 3]])})
    assert all(is_flat(heat, maps) for row in found["maps"] for heat in row)


def test_nearly_flat_maps_are_warned_of_and_shown_flat(tmp_path):
    network = nearly_flat_network(*NEARLY_FLAT[1])
    artifact = export_artifact(network, tmp_path / "it", ExportOptions(maps="sigmoid"))
    assert artifact.manifest.parity.flat_maps == 6
    with load(artifact.path) as explainer:
        result = explainer.explain(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    assert result[0].heat().max() < 0.1


@pytest.mark.parametrize("part", ["backbone", "head"])
def test_weights_that_give_nan_are_named(tmp_path, part):
    network = tiny_network()
    broken = network.backbone.module.classifier if part == "backbone" else network.head.fuser
    broken.bias.data[0] = torch.nan
    with pytest.raises(InputError, match=f"the {part} gives NaN"):
        export_artifact(network, tmp_path / "it", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_disagrees_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    class Spoiled(FusedNetwork):
        def __init__(self, network, **options):
            super().__init__(network, **options)
            self.tail["maps"].rows_1_0 = self.tail["maps"].rows_1_0 * 1.5

    monkeypatch.setattr(artifact_export, "FusedNetwork", Spoiled)
    with pytest.raises(
        ParityError, match=r"maps\[\d, \d, \d+, \d+\] is .* at batch 1; the PyTorch"
    ):
        export_artifact(tiny_network(), tmp_path / "it", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_flat_and_equal_maps_are_warned_of(tmp_path):
    network = tiny_network()
    network.head.fuser.weight.data.zero_()
    artifact = export_artifact(network, tmp_path / "it", ExportOptions())
    warnings = artifact.manifest.parity.warnings
    assert any("flat" in warning for warning in warnings)
    same = tiny_network()
    same.head.fuser.weight.data[:] = same.head.fuser.weight.data[0]
    artifact = export_artifact(same, tmp_path / "same", ExportOptions())
    assert "maps of different classes are the same" in (artifact.manifest.parity.warnings)


class Branching(TinyNet):
    """Looks at its input's values, which no exporter can follow."""

    def forward(self, images):
        return super().forward(images) * (2 if images.sum() > 0 else 3)


class OfOneSize(TinyNet):
    """Makes a number of the batch's size."""

    def forward(self, images):
        return super().forward(images).reshape(int(images.shape[0]), 5)


class ByNumpy(TinyNet):
    """Leaves torch in between."""

    def forward(self, images):
        return torch.from_numpy(super().forward(images).numpy() * 2)


class Random(TinyNet):
    """Drops out, in eval mode too."""

    def forward(self, images):
        return nn.functional.dropout(super().forward(images))


class Transposed(TinyNet):
    """Keeps its last map column by column."""

    def __init__(self):
        super().__init__()
        self.turned = nn.Identity()

    def forward(self, images):
        for stage in self.stages[:2]:
            images = stage(images)
        return self.classifier(self.turned(images.mT.contiguous())[:, :5].mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "layer", "error", "message"),
    [
        (
            Branching, "stages.3", BuildError,
            r"looks at the values of the pictures in test_export.py, line \d+: .*torch.where",
        ),
        (OfOneSize, "stages.3", BuildError, r"number of pictures into a constant, by int\(x.sh"),
        (
            ByNumpy, "stages.3", BuildError,
            r"torch cannot export this network in test_export.py, line \d+: .*\.numpy\(\) is not",
        ),
        (Random, "stages.3", InputError, "two passes of PyTorch over the same picture differ"),
        (Transposed, "turned", InputError, "layer turned does not lie over the picture"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_exported_are_told_why_in_one_line(
    tmp_path, capfd, build, layer, error, message
):
    module = build().eval().requires_grad_(False)
    backbone = Backbone("odd", module, ImageSpec(64, 64, 64), None, WeightsSource("test"))
    network = build_network(backbone, HeadRequest("random"), [layer])
    with pytest.raises(error, match=message) as caught:
        export_artifact(network, tmp_path / "it", ExportOptions())
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


class Registers(nn.Module):
    """A transformer on a wide picture, with five tokens in front of 4 x 8 patches."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 8, stride=8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.reg_token = nn.Parameter(torch.randn(1, 4, 8))
        self.block = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        patches = self.proj(images).flatten(2).transpose(1, 2)
        front = torch.cat([self.cls_token, self.reg_token], 1).expand(images.shape[0], -1, -1)
        return self.head(self.block(torch.cat([front, patches], 1))[:, 1:].mean(1))


@pytest.mark.parametrize("tokens", ["patch", "patch-times-class"])
def test_maps_of_a_transformer_with_registers_have_the_pictures_proportions(tmp_path, tokens):
    torch.manual_seed(0)
    module = Registers().eval().requires_grad_(False)
    backbone = Backbone("wide", module, ImageSpec(32, 64, 32), None, WeightsSource("test"))
    network = build_network(backbone, HeadRequest("random", tokens=tokens), ["block"])
    artifact = export_artifact(network, tmp_path / "it", ExportOptions())
    assert artifact.manifest.outputs[2].shape == ("batch", "k", 4, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(top_k=6), "--top-k is 6; expected 1 to 5"),
        (ExportOptions(top_k=0), "--top-k is 0"),
        (ExportOptions("all", 2), "no meaning with --explain all"),
    ],
)
def test_options_that_cannot_be_honoured(tmp_path, options, message):
    with pytest.raises((BuildError, InputError), match=message):
        export_artifact(tiny_network(), tmp_path / "it", options)
    assert list(tmp_path.iterdir()) == []


def test_an_opset_that_cannot_be_written_is_refused_at_once():
    with pytest.raises(InputError, match="--opset is 12; expected 18 to 23"):
        ExportOptions(opset=12)


def test_the_manifest_says_where_everything_came_from(demo_export):
    raw = json.loads((demo_export / "manifest.json").read_text())
    assert raw["schema_version"] == 4
    assert json.loads(raw["identity_text"])["image"] == raw["image"]
    assert raw["weights"]["head"]["source"] == "bundled demo"
    assert set(raw["files"]) == {"labels.txt", "model.onnx", "parity.npz"}
    assert {"tame-deploy", "torch", "onnx"} <= raw["tool_versions"].keys()
