"""`client`: as `explain`, by a server."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from tame_deploy.cli.explain import Wanted, explain_source


def client(
    url: Annotated[str, typer.Argument(help="http, https, grpc or grpcs://HOST:PORT[/MODEL].")],
    images: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders, globs, videos; - for paths on standard input."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Where the results go.")] = "out",
    class_id: Annotated[
        list[int] | None, typer.Option(help="Explain this class, repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Explain the class of this name, repeatable.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Explain this many of the likeliest classes.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pictures.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw overlays and panels.")
    ] = True,
    records: Annotated[
        Literal["jsonl", "parquet"], typer.Option(help="What results are written as.")
    ] = "jsonl",
    maps: Annotated[
        Literal["npz", "png"] | None,
        typer.Option(help="Keep maps: shards of a thousand, or grey pictures."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in the output folder.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read pictures; one a core, up to 4.")
    ] = None,
    token_file: Annotated[str | None, typer.Option(help="File whose first token is sent.")] = None,
    tls_ca: Annotated[
        str | None, typer.Option(help="PEM file of who signed the server's certificate.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="PEM file of one's own.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    timeout_s: Annotated[float, typer.Option(help="For one batch.")] = 60.0,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that holds files.")] = False,
    show: Annotated[
        bool, typer.Option("--open", help="Open the contact sheet at the end.")
    ] = False,
) -> None:
    """Explain pictures by a server: overlays, panels, results.jsonl, as of explain."""
    from tame_deploy.runtime.backends.remote import ConnectOptions, options_from_environment
    from tame_deploy.runtime.explain.load import connect
    from tame_deploy.runtime.jobs.files import FileOptions
    from tame_deploy.runtime.jobs.sources import open_source
    from tame_deploy.serving.access import Tokens

    paths = sys.stdin if "-" in images else None
    source = open_source([name for name in images if name != "-"], output, paths=paths)
    source = source if limit is None else source.limited(limit)
    written = FileOptions(pictures, records, maps, resume, batch_size, workers)
    told = options_from_environment()
    options = ConnectOptions(
        Tokens.of_file(token_file).known[0].decode() if token_file else told.token,
        tls_ca or told.ca,
        tls_cert or told.cert,
        tls_key or told.key,
        timeout_s,
    )
    wanted = Wanted(class_id, label, top_k, output, overwrite, show)
    with connect(url, options) as explainer:
        explain_source(explainer, source, wanted, written)
