"""The training loop: steps, checkpoints and validations, in the order in which they happen."""

from __future__ import annotations

import warnings

from tame_deploy.training.device import deferred_interrupt
from tame_deploy.training.head_training import HeadTraining
from tame_deploy.training.recorder import Recorder
from tame_deploy.training.validation import validate

__all__ = ["run_training"]


def run_training(training: HeadTraining, recorder: Recorder | None) -> None:
    """Take the steps that are left, and validate after every epoch.

    Args:
        training: the run.
        recorder: what writes and shows; of several processes, only the first one has it.

    Raises:
        TrainingError: if a loss is no number, or the disk takes no more.
        InputError: if too many pictures cannot be read.
        KeyboardInterrupt: if Ctrl-C was pressed, once the step is done and a checkpoint written.
    """
    checkpoint_every = training.recipe.run.checkpoint_every
    with deferred_interrupt() as interrupt, warnings.catch_warnings():
        # In float16 the first steps may overflow and be left out, of which the schedule warns.
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        if recorder and training.step == 0:
            recorder.draw_maps()
        while training.step < training.total_steps:
            if recorder:
                recorder.begin_epoch()
            for batches in training.rest_of_epoch():
                row = training.take_step(batches)
                if recorder:
                    recorder.record_step(row)
                if training.step % training.steps_per_epoch == 0:
                    break  # validation comes before the checkpoint: a resumed run has it behind it
                stopping = training.any_process(interrupt.is_set())
                if recorder and (stopping or training.step % checkpoint_every == 0):
                    recorder.save_checkpoint()
                if stopping:
                    raise KeyboardInterrupt
            row = validate(training, interrupt)
            is_best = row["loss"] < training.best
            training.best = min(training.best, row["loss"])
            if recorder:
                recorder.record_validation(row, is_best=is_best)
            if training.any_process(interrupt.is_set()):
                raise KeyboardInterrupt
