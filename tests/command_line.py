"""The command line as tests run it: a process for each command, with its output and exit status.

Most of such a process would be the import of torch and its like. So one process imports these
libraries, and nothing of tame_deploy, and every command runs in a fork of it.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import ctypes
import gc
import importlib
import io
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

#: What commands import of others; what is missing here only costs time. ONNX Runtime and OpenVINO
#: must be missing: they start threads when imported, which a fork would wait for and not have.
LIBRARIES = (
    "lightning.fabric",
    "matplotlib.pyplot",
    "onnx",
    "onnxscript.function_libs.torch_lib.ops",
    "torch._dynamo",
    "torch._meta_registrations",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
    "torch.utils.tensorboard",
    "torchvision.models",
)

_COMMAND = "from tame_deploy.cli import main; main()"
_FORKS = "from tests.command_line import serve_forks; serve_forks()"

_servers: list[subprocess.Popen[str]] = []  # one, once a command was run


def run(*arguments, cwd=None, expect=0, env=None, anew=False, meanwhile=lambda _process: None):
    """Run a command and check its exit status; `anew` in a Python that has imported nothing.

    In a fork, `meanwhile` is called with the number of its process, which leads a group of its own.
    """
    words = [str(argument) for argument in arguments]
    settings = {**os.environ, "COLUMNS": "200", "TERM": "dumb"} | (env or {})
    if anew:
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, *words],
            check=False, cwd=cwd, capture_output=True, text=True, env=settings,
        )  # fmt: skip
    else:
        (done,) = _run_in_forks(_COMMAND, words, cwd or Path.cwd(), [settings], meanwhile)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def run_here(*arguments, cwd=None, expect=0):
    """Run a command in this process, for what ends before it has begun: a fork takes far longer."""
    import pytest

    from tame_deploy.cli import main

    said = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patched,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(said[0]),
        contextlib.redirect_stderr(said[1]),
    ):
        for name, value in (("COLUMNS", "200"), ("TERM", "dumb")):
            patched.setenv(name, value)
        patched.chdir(cwd or Path.cwd())
        words = [str(argument) for argument in arguments]
        patched.setattr(sys, "argv", ["tame-deploy", *words])
        for name in ("path", "excepthook"):  # which commands change
            patched.setattr(sys, name, copy.copy(getattr(sys, name)))
        patched.setattr(logging.getLogger("tame_deploy"), "handlers", [])
        with pytest.raises(SystemExit) as ended:
            main()
    done = subprocess.CompletedProcess(words, ended.value.code, *(one.getvalue() for one in said))
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def run_together(code, environments, *, cwd):
    """Run Python code in forks beside each other, one for each environment; all have to succeed."""
    settings = [{**os.environ} | environment for environment in environments]
    done = _run_in_forks(code, [], cwd, settings, lambda _process: None)
    assert not any(one.returncode for one in done), [one.stdout + one.stderr for one in done]
    return done


def one_line(done):
    """Return the only line of stderr, an error."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def signal_when(happened, number):
    """Return a `meanwhile` that sends a signal to a command and its workers, as a terminal does."""

    def send(process):
        deadline = time.monotonic() + 120
        while not happened():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process, number)

    return send


def _run_in_forks(code, words, cwd, environments, meanwhile):
    with tempfile.TemporaryDirectory() as folder:
        asked = [
            {"code": code, "words": words, "cwd": str(cwd), "settings": settings,
             "files": [os.path.join(folder, f"{name}-{number}") for name in ("stdout", "stderr")]}
            for number, settings in enumerate(environments)
        ]  # fmt: skip
        server = _started()
        try:
            server.stdin.write(json.dumps(asked) + "\n")
            server.stdin.flush()
            command = int(server.stdout.readline())
            try:
                meanwhile(command)
                exits = json.loads(server.stdout.readline())
            except BaseException:
                os.killpg(command, signal.SIGKILL)
                raise
        except BaseException:
            _stop()  # the next command gets another one
            raise
        said = [[Path(file).read_text() for file in one["files"]] for one in asked]
    return [
        subprocess.CompletedProcess(words, exit_status, *texts)
        for exit_status, texts in zip(exits, said, strict=True)
    ]


def _started():
    if not _servers:
        root = Path(__file__).parents[1]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        server = subprocess.Popen(
            [sys.executable, "-c", _FORKS], env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        _servers.append(server)
    return _servers[0]


@atexit.register
def _stop():
    while _servers:
        server = _servers.pop()
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def _end_with_the_parent():
    """Have Linux end this process when its parent ends, however that comes about."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def serve_forks():
    """Import the libraries; then run the commands of stdin until it ends.

    A line of JSON lists those that run beside each other; they are one process group.
    """
    _end_with_the_parent()
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not [name for name in sys.modules if name.partition(".")[0] == "tame_deploy"]
    assert threading.active_count() == 1
    gc.freeze()
    forks = multiprocessing.get_context("fork")
    while line := sys.stdin.readline():
        together = [
            forks.Process(target=_become_the_command, kwargs=asked) for asked in json.loads(line)
        ]
        for process in together:
            process.start()
            os.setpgid(process.pid, together[0].pid)
        sys.stdout.write(f"{together[0].pid}\n")
        sys.stdout.flush()
        for process in together:
            process.join()
        sys.stdout.write(f"{json.dumps([process.exitcode for process in together])}\n")
        sys.stdout.flush()


def _become_the_command(code, words, cwd, settings, files):
    """Do what `python -c` would do; multiprocessing makes the exit status as Python does."""
    _end_with_the_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have ignored
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(settings)
    sys.argv = ["tame-deploy", *words]
    exec(code, {"__name__": "__main__"})
