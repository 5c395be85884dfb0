"""What a network's outputs mean: found where that is certain, asked for where it is not."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tame_deploy.artifact.types import OutputKind, Task
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone

__all__ = [
    "BINARY_LABELS",
    "Answer",
    "probabilities",
    "probe_pictures",
    "settle_task",
    "task_note",
]

#: What the classes of a network with one logit are called, unless the user says.
BINARY_LABELS = ("negative", "positive")
#: The least probability whose logarithm is taken: a float32 has no smaller one of full precision.
_LEAST = 1e-30
#: As near as a float32 comes to 1, and for a sigmoid as near to 0.
_MARGIN = 2.0**-24
#: How far a sum of probabilities that were computed in half precision may be from 1.
_SUM_TOLERANCE = 5e-3
#: What `transformers` calls the tasks of its classifiers.
_PROBLEM_TYPES: dict[str, Task] = {
    "single_label_classification": "multiclass",
    "multi_label_classification": "multilabel",
}


class Answer(nn.Module):
    """The fixed step from what a network gives out to one logit a class; nothing in it is trained.

    Probabilities become logits that give them back: nothing is put through a softmax twice. One
    logit z becomes (0, z), whose softmax is 1 - sigmoid(z) and sigmoid(z): it speaks for and
    against.
    """

    def __init__(self, task: Task, outputs: OutputKind) -> None:
        super().__init__()
        self.task, self.outputs = task, outputs

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return self.task == "binary" or self.outputs == "probabilities"

    def forward(self, outputs: Tensor) -> Tensor:
        """Return logits (B, classes) of outputs (B, classes); a binary network's may be (B)."""
        logits = outputs.reshape(-1, 1) if self.task == "binary" else outputs
        if self.outputs == "probabilities":
            logits = _logits_of(logits.float(), softmax=self.task == "multiclass")
        if self.task == "binary":
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits


def _logits_of(shares: Tensor, *, softmax: bool) -> Tensor:
    """Return logits whose softmax, or sigmoids, are the probabilities."""
    if softmax:
        return shares.clamp(min=_LEAST).log()
    inside = shares.clamp(_MARGIN, 1 - _MARGIN)
    return (inside / (1 - inside)).log()


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Return probabilities (B, C) of logits (B, C); `tame_deploy.artifact.task` in PyTorch."""
    return logits.float().sigmoid() if task == "multilabel" else logits.float().softmax(1)


def probe_pictures(backbone: Backbone) -> Tensor:
    """Return normalised pictures that show what outputs are: black, white, noise; (4, C, H, W)."""
    shape = backbone.example.shape[1:]
    noise = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    pixels = torch.cat([torch.zeros(1, *shape), torch.ones(1, *shape), noise])
    mean, std = torch.tensor(backbone.image.mean), torch.tensor(backbone.image.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def settle_task(backbone: Backbone, outputs: Tensor) -> Backbone:
    """Return the backbone with its task, what its outputs are, and labels that fit.

    Args:
        backbone: with what the user, or the weights, said of its task.
        outputs: what it gave for `probe_pictures`.

    Raises:
        InputError: for a task that does not fit, or that nobody can know but the user.
    """
    count = _count_outputs(outputs)
    task = _task_of(backbone.task or _declared(backbone.module), count)
    kind = backbone.outputs or _kind_of(outputs.float(), task, backbone)
    task = task or "multiclass"
    if backbone.outputs == "probabilities":
        _check_probabilities(outputs.float(), task)
    source = backbone.source
    if kind == "probabilities":
        of = "a softmax" if task == "multiclass" else "sigmoids"
        source = replace(source, source=f"{source.source}; gives {of}, turned back into logits")
    labels = _binary_labels(backbone.labels) if task == "binary" else backbone.labels
    return replace(backbone, task=task, outputs=kind, source=source, labels=labels)


def task_note(backbone: Backbone) -> str | None:
    """Return what a user should know of a settled task, in words; None where it is the usual."""
    said = {
        "binary": "one logit becomes two classes, against and for",
        "multilabel": "each label has a probability of its own, the sigmoid of its logit",
    }
    notes = [f"{backbone.task}: {said[backbone.task]}"] if backbone.task in said else []
    if backbone.outputs == "probabilities":
        notes.append("the network gives probabilities; the graph turns them back into logits")
    return "; ".join(notes) or None


def _count_outputs(outputs: Tensor) -> int:
    """Return how many outputs there are for each of the probe's pictures."""
    if outputs.ndim not in (1, 2) or len(outputs) != 4:
        raise InputError(
            f"the network gives {list(outputs.shape)} for 4 pictures; expected one logit a class, "
            "[4, classes]"
        )
    return outputs.shape[1] if outputs.ndim == 2 else 1


def _declared(module: nn.Module) -> Task | None:
    """Return the task that a network of `transformers`, or what wraps one, was trained for."""
    for part in (module, *module.children()):
        problem = getattr(getattr(part, "config", None), "problem_type", None)
        if isinstance(problem, str) and problem in _PROBLEM_TYPES:
            return _PROBLEM_TYPES[problem]
    return None


def _task_of(task: Task | None, count: int) -> Task | None:
    """Return the task, checked against the number of outputs; None where it is not known yet."""
    if count == 1 and task != "binary":
        said = "" if task is None else f", which is not {task}"
        raise InputError(
            f"the network gives one logit{said}; pass --task binary if its sigmoid is the "
            "probability of a class"
        )
    if count > 1 and task == "binary":
        raise InputError(
            f"--task binary is for a network of one logit, and this one gives {count}; pass --task "
            "multiclass (one class of them, a softmax) or multilabel (any of them, sigmoids)"
        )
    return task


def _kind_of(outputs: Tensor, task: Task | None, backbone: Backbone) -> OutputKind:
    """Return whether outputs are logits or probabilities, if that is certain."""
    if not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return "logits"
    if outputs.ndim == 2 and outputs.shape[1] > 1 and _sum_to_one(outputs):
        if task == "multilabel":
            raise InputError(
                "--task multilabel, but the network's outputs sum to 1 for every picture, as a "
                "softmax's do; pass --task multiclass, or remove the softmax"
            )
        return "probabilities"
    if task == "multiclass" or backbone.source.random:
        return "logits"
    sigmoids = "--outputs probabilities" if task else "--task multilabel --outputs probabilities"
    raise InputError(
        f"all outputs of the network lie in [0, 1]; pass {sigmoids} if they are sigmoids, or "
        "--outputs logits"
    )


def _sum_to_one(outputs: Tensor) -> bool:
    return bool(((outputs.sum(1) - 1).abs() <= _SUM_TOLERANCE).all())


def _check_probabilities(outputs: Tensor, task: Task) -> None:
    """Check what the user says of the outputs."""
    low, high = float(outputs.min()), float(outputs.max())
    if low < 0 or high > 1:
        raise InputError(
            f"--outputs probabilities, but the network gives {low:.3g} to {high:.3g}; expected "
            "numbers in [0, 1]. Leave it out for logits"
        )
    if task == "multiclass" and not _sum_to_one(outputs):
        raise InputError(
            "--outputs probabilities, but they do not sum to 1; pass --task multilabel if each "
            "label has its own"
        )


def _binary_labels(labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of both classes; one name is that of what the logit speaks for."""
    if labels is None:
        return BINARY_LABELS
    return (f"not {labels[0]}", labels[0]) if len(labels) == 1 else labels
