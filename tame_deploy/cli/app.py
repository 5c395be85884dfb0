"""The typer application and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from tame_deploy import __version__
from tame_deploy.cli import (
    ablate,
    backbones,
    benchmark,
    compile,
    cpp,
    doctor,
    evaluate,
    explain,
    export,
    find_lr,
    inspect,
    quantize,
    serve,
    train,
    verify,
)
from tame_deploy.cli.screen import show_log

app = typer.Typer(
    name="tame-deploy",
    help="Image classifiers that explain themselves: train, export, quantize, compile, explain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tame-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    show_log()


app.command("train")(train.train)
app.command("find-lr")(find_lr.find_lr)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("calibrate")(quantize.calibrate)
app.command("quantize")(quantize.quantize)
app.command("compile")(compile.compile_)
app.command("explain")(explain.explain)
app.command("serve-engine")(serve.serve_engine)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(evaluate.compare)
app.command("ablate")(ablate.ablate)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.command("benchmark")(benchmark.benchmark)
app.command("cpp")(cpp.cpp)
app.command("layers")(backbones.layers)
app.command("import-checkpoint")(backbones.import_checkpoint)
