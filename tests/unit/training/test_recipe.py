"""A recipe is read strictly, and written so that it reads back equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tame_deploy.artifact.decoding import read_toml
from tame_deploy.errors import InputError
from tame_deploy.training.losses import LossConfig
from tame_deploy.training.recipe import (
    RECIPES,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    decode_recipe,
    differences,
    parse_value,
    recipe_table,
    write_toml,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
shares = st.floats(0, 0.99)
recipes = st.builds(
    Recipe,
    model=st.builds(
        ModelConfig,
        backbone=texts,
        weights=texts,
        layers=st.none() | st.lists(texts, min_size=1, max_size=3).map(tuple),
        variant=st.none() | st.sampled_from(["tame", "no-skip"]),
        tokens=st.none() | st.sampled_from(["patch", "patch-times-class"]),
        prefix_tokens=st.none() | st.integers(0, 16),
        image_size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        initial_bias=st.floats(-5, 5),
        width=st.none() | st.integers(1, 99) | st.floats(0.01, 0.9) | st.just("1/8"),
        init=st.sampled_from(["random", "cam", "auto"]),
    ),
    data=st.builds(
        DataConfig, train=st.none() | texts, root=st.none() | texts, validation_share=shares
    ),
    loss=st.builds(
        LossConfig,
        area=st.floats(0, 1e6),
        maps=st.sampled_from(["batch", "own"]),
        mask=st.sampled_from(["sigmoid", "minmax"]),
        shares=st.lists(st.floats(1e-3, 100), min_size=1, max_size=4).map(tuple),
    ),
    optimizer=st.builds(
        OptimizerConfig,
        max_lr=st.floats(1e-12, 100),
        name=st.sampled_from(["sgd", "adamw"]),
        average=shares,
        class_sharing=st.floats(0, 1),
    ),
    run=st.builds(RunConfig, epochs=st.integers(1, 10**6), seed=st.integers(0, 9)),
)


@given(recipe=recipes)
def test_a_recipe_written_and_read_is_the_same(recipe, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    path.write_text(write_toml(recipe), encoding="utf-8")
    assert decode_recipe(read_toml(path)) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_are_whole(name):
    table = recipe_table(name)
    if name in ("default", "published", "p-tame"):  # for any backbone
        table["model"]["backbone"] = name
    recipe = decode_recipe(table)
    assert recipe.model.backbone == name


def test_the_recipe_of_p_tame_reads_resnet18_whatever_the_classifier():
    table = recipe_table("p-tame")
    table["model"]["backbone"] = "vgg16"
    recipe = decode_recipe(table)
    assert (recipe.model.auxiliary, recipe.model.layers) == ("resnet18", None)
    loss = recipe.loss
    assert (loss.cross_entropy, loss.area, loss.variation) == (0.16, 0.84, 0.0)
    assert (recipe.optimizer.name, recipe.optimizer.max_lr, recipe.run.epochs) == ("adamw", 1e-4, 1)


def test_the_published_recipes_hold_the_published_choices():
    vgg16, resnet50 = (decode_recipe(recipe_table(name)) for name in ("vgg16", "resnet50"))
    assert (vgg16.optimizer.max_lr, vgg16.run.epochs, vgg16.run.batch_size) == (1e-2, 8, 32)
    assert (resnet50.optimizer.max_lr, resnet50.run.epochs) == (1e-4, 4)
    for recipe in (vgg16, resnet50):
        assert recipe.loss == LossConfig(
            cross_entropy=1.5, area=2.0, variation=0.01, area_offset=0.0005, area_exponent=0.3,
            border=0.3, maps="batch", area_warmup=0.0,
        )  # fmt: skip
        assert recipe.optimizer.bias_lr_factor == 2
        assert recipe.optimizer.weight_decay == 5e-4


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"model": {"backbon": "vgg16"}}, "unknown key model.backbon; did you mean model.backbone"),
        ({"modell": {}}, "unknown key modell; did you mean model"),
        ({"model": {}}, "model.backbone is missing"),
        ({}, "model is missing"),
        ({"model": 3}, "model is 3; expected a table"),
        ({"model": {"backbone": 3}}, "model.backbone is 3; expected a string"),
        ({"model": {"backbone": "a", "layers": "b"}}, "model.layers is 'b'; expected a list"),
        ({"model": {"backbone": "a", "image_size": [1]}}, "model.image_size has 1 entries"),
        ({"model": {"backbone": "a", "tokens": "x"}}, "model.tokens is 'x'; expected one of patch"),
        ({"model": {"backbone": "a"}, "run": {"epochs": 0}}, "run: epochs is 0"),
        ({"model": {"backbone": "a"}, "run": {"epochs": 1.5}}, "run.epochs is 1.5; expected a who"),
        ({"model": {"backbone": "a"}, "run": {"epochs": True}}, "run.epochs is True"),
        (
            {"model": {"backbone": "a"}, "run": {"precision": "8"}},
            "run: precision is '8'; expected",
        ),
        ({"model": {"backbone": "a"}, "data": {"validation_share": 1}}, "data: validation_share"),
        ({"model": {"backbone": "a"}, "optimizer": {"max_lr": 0}}, "optimizer: max_lr is 0.0"),
        (
            {"model": {"backbone": "a"}, "optimizer": {"name": "lion"}},
            "optimizer.name is 'lion'; expected one of sgd",
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(table, message):
    with pytest.raises(InputError, match=message):
        decode_recipe(table)


def test_a_recipe_that_is_not_there_or_not_toml_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="no recipe 'nope'; expected default, demo, p-tame, published, resnet50"
    ):
        recipe_table("nope")
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n")
    with pytest.raises(InputError, match="broken.toml is not TOML"):
        recipe_table(str(broken))


def test_differences_name_the_key_and_both_values():
    before = decode_recipe({"model": {"backbone": "a"}})
    after = decode_recipe({"model": {"backbone": "a"}, "loss": {"area": 1}})
    assert differences(before, after) == ["loss.area: 2.0 then, 1.0 now"]


@pytest.mark.parametrize(
    ("text", "value"), [("1.5", 1.5), ("true", True), ("no-skip", "no-skip"), ('["a"]', ["a"])]
)
def test_a_value_on_the_command_line_is_toml_or_a_string(text, value):
    assert parse_value(text) == value
