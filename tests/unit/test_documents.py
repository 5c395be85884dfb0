"""What the documents say exists."""

import json
import re
import runpy
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    from tame_deploy.cli.app import app

    group = typer.main.get_command(app)
    return {
        name: {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_and_option_named_in_a_document_exists(document):
    known = commands()
    options = set.union(*known.values()) | {"--help", "--version"}
    text = document.read_text()
    for line in re.findall(r"(?:^|`)tame-deploy ((?:[^\n`]|\\\n)+)", text, re.MULTILINE):
        command = line.split()[0]
        if command in known:
            used = set(re.findall(r"(?<!\S)(--[a-z-]+)", line))
            assert used <= known[command] | {"--help"}, line
        else:
            assert command in ("COMMAND", "--help", "--version"), line
    for option in re.findall(r"`(--[a-z-]+)[` ]", text):
        assert option in options, option


def test_every_option_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    for command, options in commands().items():
        for option in options:
            if option.startswith("--") and not option.startswith(("--help", "--no-")):
                assert option in text, f"{command} {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_linked_or_named_file_exists(document):
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target
    for name in re.findall(r"`((?:docs|benchmarks|examples|tests|tame_deploy)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_path_in_contributings_table_exists():
    rows = re.findall(r"^\| .* \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    paths = {path for row in rows for path in re.findall(r"`([\w./-]+/[\w./-]*)`", row)}
    assert len(paths) > 80
    for path in sorted(paths):
        assert any((folder / path).exists() for folder in (ROOT, ROOT / "tame_deploy")), path


def test_contributing_names_the_layers_that_are_checked():
    from tame_deploy.artifact.decoding import read_toml

    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    rules = read_toml(ROOT / "pyproject.toml")["tool"]["importlinter"]["contracts"]
    for rule in rules:
        layers = [one.rsplit(".", 1)[-1] for one in rule.get("layers", ()) if one != "__main__"]
        assert ", ".join(f"`{one}`" for one in layers) in text, rule["name"]


def sections(page: Path) -> set[str]:
    """Return what links to a page's headings say after the #."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def written_files():
    """Return the files of code and comments that may send their reader elsewhere."""
    kinds = {".py", ".cpp", ".hpp", ".h", ".c", ".cmake", ".txt", ".toml", ".sh", ".md"}
    for folder in ("tame_deploy", "cpp", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in kinds and path.is_file() and "build" not in path.parts:
                yield path


def test_every_page_and_file_that_code_names_is_there():
    for path in written_files():
        text = path.read_text(errors="replace")
        for page, section in re.findall(r"(?<![\w/])(docs/[\w/-]+\.md)(?:#([\w-]+))?", text):
            assert (ROOT / page).is_file(), f"{path} names {page}"
            assert not section or section in sections(ROOT / page), f"{path}: {page}#{section}"
        for name in re.findall(r"(?<![\w/])((?:tame_deploy|cpp|tests)/[\w/-]+\.\w+)", text):
            assert (ROOT / name).exists(), f"{path} names {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_heading_finds_it(document):
    for target, section in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text()):
        page = document.parent / target if target else document
        assert section in sections(page), f"{target}#{section}"


def test_each_description_of_a_file_names_the_page_that_lists_its_fields():
    from dataclasses import fields

    from tame_deploy.artifact.manifest import Manifest
    from tame_deploy.artifact.sidecar import EngineSidecar

    for kind in (Manifest, EngineSidecar):
        (page,) = re.findall(r"\((docs/[\w-]+\.md)[^)]* lists every field\)", kind.__doc__)
        text = (ROOT / page).read_text()
        for field in fields(kind):
            assert f"`{field.name}`" in text, f"{page}: {field.name}"


def test_figures_in_the_readme_are_those_of_the_committed_results():
    text = (ROOT / "README.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "fusion.json").read_text())
    assert results["machine"]["processor"] in text
    for run in results["runs"]:
        row = next(
            line for line in text.splitlines()
            if line.startswith(f"| {run['backbone']} | {run['batch']} |")
        )  # fmt: skip
        for key in (key for key in run if "_over_" in key):
            assert f"{run[key]['ratio']:.2f}x" in row, key


def test_the_training_figures_are_those_of_the_committed_results():
    text = (ROOT / "docs" / "training.md").read_text()
    found = json.loads((ROOT / "benchmarks" / "results" / "training.json").read_text())
    assert found["relative_loss_difference"] <= 1e-5
    for number in (
        f"{found['plain_over_ours_time']:.2f} times",
        f"{found['ours_over_plain_peak']:.2f} times",
        f"{found['ours_over_bound_time']:.2f} times",
        f"{found['ours_over_bound_peak']:.2f} times",
        f"batch {found['batch']}",
    ):
        assert number in text, number


def test_the_comparison_on_lite0_is_that_of_the_committed_results():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    found = json.loads((ROOT / "benchmarks" / "results" / "efficientnet_lite0.json").read_text())
    table = re.search(r"<!-- lite0 -->\n(.*?)\n<!-- /lite0 -->", text, re.DOTALL)
    rows = {}
    for line in table[1].splitlines()[2:]:
        name, *cells = (cell.strip().replace("*", "") for cell in line.split("|")[1:-1])
        rows[name] = cells
    judged = {one["method"]: one for one in found["methods"]}
    judged |= {f"tame, ONNX, {name}": found[name] for name in ("float32", "int8")}
    assert list(rows) == list(judged)
    for name, one in judged.items():
        scores = [one["metrics"][f"{kind}_{share}"] for share in (100, 50, 15)
                  for kind in ("average_drop", "increase")]  # fmt: skip
        assert rows[name] == [
            f"{score['mean']:.1f} ({score['low']:.0f}–{score['high']:.0f})"  # noqa: RUF001
            for score in scores
        ], name
    beside = found["int8_beside_float32"]
    for words in (
        f"{judged['tame']['pictures']} held-out crops",
        f"{found['crops_trained_on']} crops",
        f"IoU of the top 15 % is {beside['iou_15']:.3f}, just below the floor",
        f"same class in {100 * beside['agreement']:.1f} % of {beside['judged']} other crops",
        f"{100 * beside['kept_share']:.0f} % of the multiply-adds",
        found["machine"]["processor"],
    ):
        assert words in text.replace("\n", " "), words


@pytest.mark.parametrize(
    ("name", "marker", "network"),
    [
        ("README.md", "quantization", "squeezenet1_1"),
        ("docs/quantization.md", "quantization", "squeezenet1_1"),
        ("docs/quantization.md", "quantization-lite0", "efficientnet_lite0"),
        ("docs/quantization.md", "quantization-lite0-trained", "efficientnet_lite0_trained"),
    ],
)
def test_the_figures_of_lower_precision_are_those_of_the_committed_results(name, marker, network):
    text = (ROOT / name).read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "quantization.json").read_text())
    found = results[network]
    table = re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", text, re.DOTALL)
    rows = [line for line in table[1].splitlines()[2:] if line.startswith("|")]
    assert len(rows) >= 5
    for row in rows:
        variant, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        one = found["variants"][variant]
        kept, speed = one.get("kept_share"), one.get("speedup_batch_1")
        assert cells == [
            f"{100 * one['agreement']:.1f} %",
            f"{one['pearson_5th']:.4f}",
            f"{one['iou_15']:.3f}",
            "" if kept is None else f"{100 * kept:.0f} %",
            "" if speed is None else f"{speed:.2f}x / {one['speedup_batch_8']:.2f}x",
        ], variant
    assert f"{found['judged']} others" in text.replace("\n", " ")
    assert f"{results['resnet50']['speedup_batch_8']:.2f}x" in text
    assert results["machine"]["processor"] in text


def test_the_speeds_of_untrained_networks_in_eight_bits_are_those_of_the_committed_results():
    text = (ROOT / "docs" / "quantization.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "quantization.json").read_text())
    marker = "quantization-untrained"
    table = re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", text, re.DOTALL)
    rows = table[1].splitlines()[2:]
    assert len(rows) == 6
    for row in rows:
        name, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        one = results[name]
        assert cells == [
            f"{one['speedup_batch_1']:.2f}x / {one['speedup_batch_8']:.2f}x",
            f"{one['integer_share']:.0%}",
            f"{one['integer_layers']} of {one['layers']}",
            str(one["pairs"]),
        ], name


@pytest.mark.parametrize("name", ["README.md", "docs/training.md"])
def test_the_tables_of_heads_are_made_of_the_committed_results(name):
    filled = runpy.run_path(str(ROOT / "benchmarks" / "narrow_tables.py"))["filled"]
    results = json.loads((ROOT / "benchmarks" / "results" / "narrow.json").read_text())
    text = (ROOT / name).read_text()
    assert text.count("<!-- /") > 0
    assert filled(text, results) == text


def test_the_page_of_the_zoo_is_made_of_the_committed_results():
    made = runpy.run_path(str(ROOT / "benchmarks" / "zoo_page.py"))["page_of"]
    results = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text())
    assert (ROOT / "docs" / "zoo.md").read_text() == made(results)
    works = [name for name, row in results["members"].items() if "refused" not in row]
    assert len(works) >= 60


def test_the_peers_in_the_readme_are_those_of_the_committed_results():
    text = (ROOT / "README.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())
    table = re.search(r"<!-- peers -->\n(.*?)\n<!-- /peers -->", text, re.DOTALL)
    rows = table[1].splitlines()[2:]
    assert [run["backbone"] for run in results["runs"]] == ["resnet50", "vgg16"]
    assert len(rows) == len(results["runs"][0]["methods"])
    for row in rows:
        method, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        found = [run["methods"][method] for run in results["runs"]]
        assert cells == [
            f"{one[key]['median']:.2f}x" for one in found for key in ("over_ours", "over_ours_bf16")
        ], method
    assert results["machine"]["processor"] in text


def test_what_deploying_takes_is_as_in_the_committed_results():
    text = (ROOT / "README.md").read_text().replace("\n", " ")
    found = json.loads((ROOT / "benchmarks" / "results" / "deploy.json").read_text())
    steady = found["resident_mib"][1:]
    for words in (
        f"is {found['environment_mb']:.0f} MB and has no torch",
        f"{found['cold_start_s']['demo']:.2f} s for the demo",
        f"{found['cold_start_s']['resnet50']:.2f} s for ResNet-50",
        f"takes {found['import_numpy_s']:.2f} s; over {found['explanations']:,} explanations",
        f"between {min(steady):.0f} and {max(steady):.0f} MiB",
    ):
        assert words in text, words
