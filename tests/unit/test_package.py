"""The package from outside: names, import cost, error tree."""

import re
import subprocess
import sys
import types

import pytest

import tame_deploy
from tame_deploy import cli, errors


def test_every_public_name_resolves_and_is_listed_once():
    for name in tame_deploy.__all__:
        assert getattr(tame_deploy, name).__name__ == name
    assert sorted(tame_deploy.__all__) == list(tame_deploy.__all__)
    homes = [name for names in tame_deploy._HOMES.values() for name in names]
    assert sorted(homes) == sorted(tame_deploy.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tame_deploy.nonsense  # noqa: B018


def test_error_tree_in_the_docstring_is_the_real_one():
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    real = [name for name in errors.__all__ if name not in ("TameError", "require_extra")]
    assert sorted(drawn) == sorted(real)
    assert all(issubclass(getattr(errors, name), errors.TameError) for name in real)


@pytest.mark.parametrize("statement", ["import tame_deploy", "import tame_deploy.cli.app"])
def test_importing_brings_no_heavy_library(statement):
    """How long it takes is measured by benchmarks/footprint.py."""
    heavy = ["torch", "onnx", "onnxruntime", "safetensors", "torchvision", "numpy", "PIL"]
    check = f"{statement}, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_runtime_works_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "import tame_deploy.runtime.explain.explainer, tame_deploy.runtime.jobs.files\n"
        "import tame_deploy.runtime.backends.onnxruntime.backend, tame_deploy.runtime.verify.parity"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_on_an_artifact_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "import tame_deploy.evaluation.evaluate, tame_deploy.metrics.evaluated_model"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_quantizing_needs_no_torch():
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import tame_deploy.calibration.quantize, tame_deploy.calibration.calibrate"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_extra_is_named_with_its_pip_command():
    with pytest.raises(errors.MissingExtraError, match=r"nonsense.*pip install 'tame-deploy\[x\]'"):
        errors.require_extra("x", "json", "nonsense")


def test_every_help_text_is_shown_as_it_was_written():
    """Square brackets are markup to whoever draws the help, unless they are escaped."""
    import typer
    from rich.markup import render

    from tame_deploy.cli.app import app

    group = typer.main.get_command(app)
    commands = [group, *group.commands.values()]
    texts = [command.help or "" for command in commands]
    texts += [getattr(one, "help", None) or "" for command in commands for one in command.params]
    assert len(texts) > 100
    for text in texts:
        assert render(text).plain == text.replace("\\[", "["), text


def test_ctrl_c_while_the_command_line_is_imported_is_one_line(monkeypatch, capsys):
    def interrupted(_name):
        raise KeyboardInterrupt

    module = types.ModuleType("tame_deploy.cli.app")
    module.__getattr__ = interrupted
    monkeypatch.setitem(sys.modules, "tame_deploy.cli.app", module)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted before anything was done\n"
