"""Where training runs: device, precision and processes; and how Ctrl-C reaches it."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from lightning.fabric import Fabric

from tame_deploy.errors import InputError
from tame_deploy.training.recipe import RunConfig

__all__ = ["deferred_interrupt", "flushed_denormals", "open_fabric"]


def open_fabric(run: RunConfig) -> Fabric:
    """Return the device and the precision of a run; the processes of torchrun meet here.

    Raises:
        InputError: if the machine has no such device or precision.
    """
    accelerator = _accelerator(run)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # torchrun says both
    try:
        with _quiet("lightning.fabric", "lightning.pytorch"):
            fabric = Fabric(
                accelerator=accelerator,
                devices=local,
                num_nodes=world // local,
                strategy="ddp" if world > 1 else "auto",
                precision=run.precision,  # type: ignore[arg-type]
            )
            fabric.launch()
    # It checks devices in many ways, each with an exception of its own.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot train on this machine as asked: {reason:.300}") from error
    if world > 1:
        atexit.unregister(_leave_the_others)  # one run after another in a process: once is enough
        atexit.register(_leave_the_others)
    return fabric


def _leave_the_others() -> None:
    """End the threads that processes talk with: a process that ends beside them may abort."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Leave out what loggers say of hardware and precision."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _accelerator(run: RunConfig) -> str:
    name = run.accelerator
    if name == "auto":
        name = "gpu" if torch.cuda.is_available() else "cpu"
    if name == "cpu" and run.precision == "16-mixed":
        raise InputError("run.precision 16-mixed needs a GPU; on a processor use bf16-mixed")
    return name


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Round denormal numbers to zero for a while: processors are slow with them.

    Masks near zero are full of them. Afterwards the process is as it was.
    """
    before = bool((torch.tensor([1e-40]) * 1.0 == 0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Have Ctrl-C set an event for a loop to look at, instead of raising wherever Python is.

    An exception that is raised while data workers are being forked can be swallowed there. A
    second Ctrl-C raises all the same, and a third one ends the process. In a thread other than the
    main one, which never sees signals, and where Ctrl-C is ignored, everything stays as it is.
    """
    interrupt = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if interrupt.is_set():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        interrupt.set()

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield interrupt
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
