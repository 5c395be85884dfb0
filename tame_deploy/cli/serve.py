"""`serve-engine`: explanations over the network."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from tame_deploy.cli.options import BackendName, ComputeOption, ThreadsOption, given_options
from tame_deploy.cli.screen import notes, warn_speed_only
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.serving.options import ServeOptions
    from tame_deploy.serving.repository import Repository
    from tame_deploy.serving.server import Addresses

Formats = Literal["text", "json"]
Levels = Literal["debug", "info", "warning", "error"]


def serve_engine(
    context: typer.Context,
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]ARTIFACT...", help="Artifact directories."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="TOML file: artifacts, and these options by name.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1.")] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Names that requests may name as their Host, * for any; on the loopback localhost "
            "alone, elsewhere any.",
        ),
    ] = None,
    http_port: Annotated[int | None, typer.Option(help="8000; 0 takes a free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="8001; 0 takes a free one.")] = None,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="HTTP alone.")] = False,
    backend: Annotated[BackendName | None, typer.Option(help="What runs the models; auto.")] = None,
    device: Annotated[int | None, typer.Option(help="Number of the GPU; 0.")] = None,
    precision: ComputeOption = None,
    threads: ThreadsOption = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Pictures in a batch, and in a request; 8.")
    ] = None,
    instances: Annotated[int | None, typer.Option(help="Batches that run at a time; 1.")] = None,
    max_queue_delay_ms: Annotated[
        float | None, typer.Option(help="Longest wait for others to share a batch; 0.")
    ] = None,
    max_queue_size: Annotated[
        int | None,
        typer.Option(
            help="Requests of a model that wait or are run at a time; as many as "
            "connections let in."
        ),
    ] = None,
    max_body_mb: Annotated[int | None, typer.Option(help="MiB of a request; 64.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Of a picture; 89 million.")] = None,
    decoders: Annotated[
        int | None, typer.Option(help="Threads that decode and draw; one a processor, up to 4.")
    ] = None,
    max_connections: Annotated[int | None, typer.Option(help="Of each transport; 1000.")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Of a request; 60.")] = None,
    body_timeout_s: Annotated[
        float | None, typer.Option(help="For a request's head, and its body, to arrive; 30.")
    ] = None,
    keep_alive_s: Annotated[float | None, typer.Option(help="Of idle connections; 75.")] = None,
    drain_s: Annotated[
        float | None, typer.Option(help="To answer what was accepted, when told to end; 30.")
    ] = None,
    reload_s: Annotated[
        float | None, typer.Option(help="How often to look for replaced artifacts; 5, 0 is never.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="PEM file of the certificates.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file of their key.")] = None,
    client_ca: Annotated[
        str | None, typer.Option(help="PEM file of who signs clients' certificates.")
    ] = None,
    token_file: Annotated[str | None, typer.Option(help="Bearer tokens, one a line.")] = None,
    closed_health: Annotated[
        bool, typer.Option("--closed-health", help="Health and metrics need a token too.")
    ] = False,
    no_page: Annotated[bool, typer.Option("--no-page", help="No page at /.")] = False,
    log_format: Annotated[Formats | None, typer.Option(help="text or json.")] = None,
    log_level: Annotated[Levels | None, typer.Option(help="info; warning is quiet.")] = None,
    traces: Annotated[
        str | None, typer.Option(help="OTLP endpoint (HTTP) for OpenTelemetry's traces.")
    ] = None,
) -> None:
    """Serve artifacts over HTTP and gRPC (Open Inference Protocol), with a page to try them."""
    values = locals()
    require_extra(
        "serve", "uvicorn", "starlette", "httptools", "orjson", "python_multipart", "grpc",
        "grpc_health", "grpc_reflection", "prometheus_client",
    )  # fmt: skip
    # gRPC's core would write lines of its own beside the log; what fails is told by exceptions.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tame_deploy.serving.logs import set_up_logs
    from tame_deploy.serving.options import read_options
    from tame_deploy.serving.repository import named_artifacts
    from tame_deploy.serving.server import run_server

    listed, options = read_options(config, _given(values, given_options(context)))
    if artifacts and listed:
        raise InputError("found artifacts both here and in the file; expected one of them")
    named = named_artifacts(artifacts or listed)
    set_up_logs(options.log_format, options.log_level)

    def show(addresses: Addresses, repository: Repository) -> None:
        _show(addresses, repository, options)

    run_server(named, options, _log_ready if options.log_format == "json" else show)


#: Flags that turn off what is on by default, and the option that each of them sets.
_OFF = {"no_grpc": ("grpc_port", None), "closed_health": ("open_health", False),
        "no_page": ("page", False)}  # fmt: skip


def _given(values: Mapping[str, Any], given: Set[str]) -> dict[str, Any]:
    """Return the options that were given by the names that they have in a file of options."""
    if {"grpc_port", "no_grpc"} <= given:
        raise InputError("found both --grpc-port and --no-grpc; expected one of them")
    names = given - {"artifacts", "config"}
    found: dict[str, Any] = dict(_OFF.get(name, (name, values[name])) for name in names)
    if "allowed_hosts" in found:
        found["allowed_hosts"] = [
            name.strip() for one in found["allowed_hosts"] for name in one.split(",")
        ]
    return found


def _log_ready(addresses: Addresses, repository: Repository) -> None:
    """Say where to go, and what runs each model, in one line of the log."""
    told = {"http": addresses.http, "grpc": addresses.grpc}
    served = ", ".join(f"{name} with {how}" for name, how in repository.backends.items())
    logging.getLogger("tame_deploy").info("serving %s", served, extra={"addresses": told})


def _show(addresses: Addresses, repository: Repository, options: ServeOptions) -> None:
    """Say where to go."""
    for name in repository.names:
        warn_speed_only(repository.get(name).explainer.artifact.manifest)
    first = repository.names[0]
    notes.print(f"[green]serving[/] {escape(', '.join(repository.names))}. Ctrl-C ends it")
    for name, backend in repository.backends.items():
        notes.print(f"  {escape(name)} runs with {escape(backend)}")
    if options.page:
        notes.print(f"  page     {addresses.http}/")
    notes.print(f"  HTTP     {addresses.http}/v2/models/{first}")
    if addresses.grpc is not None:
        notes.print(f"  gRPC     {addresses.grpc}/{first}")
    extra = " -H 'Authorization: Bearer …'" if options.token_file else ""
    extra += " --cacert …" if options.tls_cert else ""
    notes.print(
        f"  try      curl{extra} --data-binary @cat.jpg "
        f"'{addresses.http}/v2/models/{first}/explain?maps=none'"
    )
