"""A network whose weights are shuffled has other maps, unless the maps never asked the network."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tame_deploy.artifact.directory import Artifact, open_artifact
from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.errors import IncompatibleArtifactError, InputError
from tame_deploy.evaluation.baselines import RandomMethod
from tame_deploy.evaluation.evaluate import EvaluationOptions, evaluate
from tame_deploy.evaluation.kept import MOST_PICTURES, Keeper, chosen_pictures
from tame_deploy.evaluation.randomisation import RandomisableGraph, _similarity
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import HeadRequest, build_network
from tests.command_line import run, run_here
from tests.once import made_once

PICTURES = DrawnPictures(HELD_OUT_SEED, 32)
OPTIONS = EvaluationOptions(metrics=("randomisation", "sensitivity"), verdict=True)


@pytest.fixture(scope="module")
def demo(demo_export):
    return RandomisableGraph.of_artifact(open_artifact(demo_export))


def evaluated(graph):
    with graph.open(0, draw=0) as model:
        return evaluate(model, PICTURES, OPTIONS, randomisable=graph)


def means(found):
    return {name: estimate.mean for name, estimate in found.estimates().items()}


def judgements(found):
    return {finding.topic: finding.judgement for finding in found.verdict}


def weights_of(graph, layers, draw=0):
    """Return all constants of a graph with so many layers shuffled."""
    shuffled = graph.shuffled(layers, draw)
    return {t.name: numpy_helper.to_array(t) for t in shuffled.graph.initializer}


def test_layers_are_shuffled_from_the_classifier_down(demo):
    assert demo.layers[0] == [
        "backbone.backbone.classifier.weight", "backbone.backbone.classifier.bias",
    ]  # fmt: skip
    assert demo.layers[-1][0] == "backbone.backbone.block1.0.weight"
    assert list(demo.steps.values()) == [1, 3, 6, 8, 11, 13]
    assert list(demo.steps)[-1] == 100
    before, some, every = (weights_of(demo, layers) for layers in (0, 3, 13))
    for number, names in enumerate(demo.layers):
        for name in names:
            assert np.array_equal(some[name], before[name]) == (number >= 3), name
            # The same values in other places, and the same ones at every later step.
            assert not np.array_equal(every[name], before[name])
            assert np.array_equal(np.sort(every[name], axis=None), np.sort(before[name], axis=None))
            assert number >= 3 or np.array_equal(every[name], some[name])
    of_layers = {name for names in demo.layers for name in names}
    assert all(np.array_equal(every[n], before[n]) for n in before if n not in of_layers)
    other = weights_of(demo, 1, draw=1)
    assert not np.array_equal(other[demo.layers[0][0]], some[demo.layers[0][0]])


def test_the_demo_heads_map_changes_with_the_network(demo):
    found = evaluated(demo)
    scores = means(found)
    # The head reads layers before the classifier, which alone changes nothing.
    assert scores["randomisation_7.7"] == pytest.approx(100)
    assert scores["randomisation_23.1"] < 80
    assert scores["randomisation_100"] < 25
    assert scores["randomisation_100"] < scores["randomisation"] < 50
    assert judgements(found)["dependence on the network"] == "good"


def always_the_centre(graph_path, manifest):
    """Return a graph with the same answers, whose maps are a Gaussian whatever the picture."""
    model = onnx.load(graph_path)
    (last,) = (node for node in model.graph.node if "maps" in node.output)
    last.output[0] = "maps_of_the_head"
    rows, columns = np.mgrid[-1:1:32j, -1:1:32j]
    centre = np.exp(-(rows**2 + columns**2)).astype(np.float32)[None, None]
    nothing = np.zeros((), np.float32)
    model.graph.initializer.extend(
        numpy_helper.from_array(values, name)
        for name, values in (("centre", centre), ("nothing", nothing))
    )
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["maps_of_the_head", "nothing"], ["blank"], "tail/Mul"),
            helper.make_node("Add", ["blank", "centre"], ["maps"], "tail/Add"),
        ]
    )
    return RandomisableGraph(manifest, model)


def test_a_map_that_never_asked_the_network_is_found_out(demo_export):
    artifact = open_artifact(demo_export)
    found = evaluated(always_the_centre(artifact.model, artifact.manifest))
    scores = means(found)
    assert scores["randomisation_100"] == scores["randomisation"] == pytest.approx(100)
    assert scores["sensitivity_max"] == 0
    assert judgements(found) == {
        "faithfulness": "not measured",
        "dependence on the network": "warning",
        "stability": "good",
        "limits": "note",
    }
    assert "stay much the same" in found.verdict[1].sentence


@pytest.fixture(scope="module")
def cam(tmp_path_factory):
    def export(output):
        network = build_network(load_backbone(BackboneRequest("demo")), HeadRequest("cam"))
        export_artifact(network, output / "cam", ExportOptions())

    return open_artifact(made_once(tmp_path_factory, "demo-cam", export) / "cam")


def test_a_class_activation_map_changes_with_the_classifier_alone(cam):
    scores = means(evaluated(RandomisableGraph.of_artifact(cam)))
    assert scores["randomisation_7.7"] < 50
    assert scores["randomisation_100"] < 25


@pytest.mark.parametrize(
    ("stored", "rows"),
    [
        (lambda w: w, lambda w: w),
        (lambda w: w[:, :, None, None], lambda w: w),  # a 1x1 convolution
        (lambda w: w.T, lambda w: w),  # a product with the classifier on the right
        (lambda w: w, lambda w: np.concatenate([-w, w])),  # one logit, two classes
    ],
)
def test_the_rows_of_a_class_activation_map_are_shuffled_as_the_classifier_is(cam, stored, rows):
    weights = np.random.default_rng(0).random((3, 4), np.float32)
    constants = {"backbone.last": stored(weights), "tail.maps.rows_0": rows(weights)}
    nodes = [
        helper.make_node("Gemm", ["x", "backbone.last"], ["logits"], "backbone/Gemm"),
        helper.make_node("Gather", ["tail.maps.rows_0", "y"], ["chosen"], "tail/Gather"),
    ]
    initializers = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "it", [], [], initializers))
    after = weights_of(RandomisableGraph(cam.manifest, model), 1)
    assert not np.array_equal(after["backbone.last"], constants["backbone.last"])
    shuffled = after["backbone.last"]
    shuffled = shuffled.T if shuffled.shape == (4, 3) else shuffled.reshape(3, 4)
    assert np.array_equal(after["tail.maps.rows_0"], rows(shuffled))


def test_what_the_exporter_made_of_weights_is_shuffled_and_masks_are_not(cam):
    generator = np.random.default_rng(0)
    constants = {
        "backbone.first": generator.random((4, 4), np.float32),
        "backbone.gain": generator.random(4, np.float32),
        "backbone.mean": generator.random(4, np.float32),  # what a batch norm measured
        "positions": generator.random((4, 4), np.float32),
        "mask": np.where(np.eye(4), 0, -100).astype(np.float32),
        "scales": np.array([1, 1, 2, 3], np.float32),
        "backbone.last": generator.random((4, 4), np.float32),
    }
    normalised = ["a", "backbone.gain", "backbone.gain", "backbone.mean", "backbone.mean"]
    nodes = [
        helper.make_node("Gemm", ["x", "backbone.first"], ["a"], "backbone/Gemm"),
        helper.make_node("BatchNormalization", normalised, ["b"], "backbone/Norm"),
        helper.make_node("Add", ["b", "positions"], ["c"], "backbone/Add"),
        helper.make_node("Add", ["c", "mask"], ["d"], "backbone/Mask"),
        helper.make_node("Resize", ["d", "", "scales"], ["e"], "backbone/Resize"),
        helper.make_node("MatMul", ["e", "backbone.last"], ["logits"], "backbone/MatMul"),
        helper.make_node("Mul", ["e", "positions"], ["maps"], "tail/Mul"),
    ]
    initializers = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "it", [], [], initializers))
    graph = RandomisableGraph(cam.manifest, model)
    assert graph.layers == [["backbone.last"], ["backbone.first", "backbone.gain", "positions"]]


def test_graphs_whose_weights_cannot_be_randomised_say_what_to_do(demo_export, demo_with):
    artifact = open_artifact(demo_export)
    manifest = replace(artifact.manifest, precision="int8", parents=("abc",))
    with pytest.raises(IncompatibleArtifactError, match=r"is int8.*the float32 artifact.*abc"):
        RandomisableGraph.of_artifact(Artifact(artifact.path, manifest))
    predicted = open_artifact(demo_with(explain="predicted", top_k=2, input="float32"))
    with pytest.raises(InputError, match="export with --explain selectable"):
        RandomisableGraph.of_artifact(predicted)


def test_a_graph_that_chooses_its_classes_is_measured_by_what_it_answers(demo_with):
    from tame_deploy.metrics.evaluated_model import evaluated_artifact
    from tame_deploy.runtime.selection.selection import open_backend

    artifact = open_artifact(demo_with(explain="predicted", top_k=2, input="float32"))
    one = EvaluationOptions(limit=1, verdict=True)
    with evaluated_artifact(artifact, open_backend(artifact, "onnxruntime")) as model:
        found = evaluate(model, PICTURES, one)
        assert "sparsity" in found.scores
        assert "adcc" not in found.scores
        assert "export with --explain selectable" in found.verdict[1].sentence
        with pytest.raises(InputError, match="adcc needs the map of a given class"):
            evaluate(model, PICTURES, replace(one, metrics=("adcc",)))
        # Another method explains any class, whatever the graph does.
        method = RandomMethod()
        found = evaluate(model, PICTURES, replace(one, metrics=("adcc",)), method=method)
        assert np.isfinite(found.scores["adcc"]).all()


def test_randomisation_is_of_the_models_own_maps(demo):
    options = EvaluationOptions(metrics=("randomisation",), limit=1)
    with demo.open(0, draw=0) as model:
        with pytest.raises(InputError, match="not of random's"):
            evaluate(model, PICTURES, options, method=RandomMethod(), randomisable=demo)
        with pytest.raises(InputError, match="needs the float32 graph"):
            evaluate(model, PICTURES, options)


def test_pictures_that_are_kept_are_spread_over_all():
    assert chosen_pictures(3) == [0, 1, 2]
    many = chosen_pictures(10 * MOST_PICTURES)
    assert len(many) == MOST_PICTURES
    assert (many[0], many[-1]) == (0, 10 * MOST_PICTURES - 1)


def test_numbers_of_kept_pictures_stand_in_their_rows():
    keeper = Keeper(2 * MOST_PICTURES)
    for indices in ([0, 1, 2], [7, 2 * MOST_PICTURES - 1]):  # the others cannot be read
        arrays = np.array(indices)
        keeper.keep(indices, arrays, arrays, arrays)
    kept = keeper.pictures()
    assert set(kept.class_ids) <= set(chosen_pictures(2 * MOST_PICTURES))
    column = keeper.spread(kept.class_ids, 5)
    assert [value for value in column if np.isfinite(value)] == kept.class_ids.tolist()
    assert (column[0], column[4]) == (0, 2 * MOST_PICTURES - 1)
    with pytest.raises(InputError, match="chosen to be explained again"):
        Keeper(1).pictures()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "ARTIFACT", "--engine", "x", "--backend", "tensorrt"], "engine"),
        (["compare", "ARTIFACT"], "compare does not measure randomisation"),
    ],
)
def test_commands_that_cannot_randomise_say_why(demo_export, tmp_path, arguments, message):
    words = [str(demo_export) if word == "ARTIFACT" else word for word in arguments]
    options = ["--data", "demo-held-out:2", "--metrics", "randomisation", "-o", tmp_path / "out"]
    done = run_here(*words, *options, expect=1)
    assert message in done.stderr


def test_the_command_says_in_words_what_it_found(demo_export, tmp_path):
    import json

    options = ["--data", "demo-held-out:6", "--metrics", "ad-ic,randomisation"]
    done = run("evaluate", demo_export, *options, "-o", "out", cwd=tmp_path)
    assert "similarity when all random % ↓" in done.stdout
    assert "unclear: Showing the classifier only" in done.stdout
    assert "add --metrics sensitivity." in done.stdout
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    topics = [finding["topic"] for finding in stored["verdict"]]
    assert topics == ["faithfulness", "dependence on the network", "stability", "limits"]
    assert "6 pictures are too few" in stored["verdict"][0]["sentence"]
    assert stored["metrics"]["chance_average_drop_50"]["pictures"] == 6


@pytest.mark.slow
def test_a_pytorch_network_is_randomised_as_its_export_is(demo_export, tmp_path):
    import json

    found = {}
    for name, model in (("torch", ["--backbone", "demo"]), ("onnx", [demo_export])):
        options = ["--data", "demo-held-out:4", "--metrics", "randomisation", "-o", name]
        run("evaluate", *model, *options, cwd=tmp_path)
        stored = json.loads((tmp_path / name / "evaluation.json").read_text())
        found[name] = {key: value["mean"] for key, value in stored["metrics"].items()}
    assert found["torch"] == pytest.approx(found["onnx"], abs=0.5)


def test_a_map_that_was_flat_before_anything_was_shuffled_says_nothing():
    ramp = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    found = _similarity(np.concatenate([ramp * 0 + 1, ramp]), np.concatenate([ramp, ramp]))
    assert np.isnan(found[0])
    assert found[1] == 100
