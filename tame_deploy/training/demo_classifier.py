"""Training the demo's classifier: a small network that names drawn shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tame_deploy.data.labelled import DrawnPictures
from tame_deploy.model.demo import IMAGE, LABELS, DemoNet
from tame_deploy.training.device import flushed_denormals

__all__ = ["train_demo_classifier"]

#: Without it the classifier is so sure of itself that nothing can make it surer.
LABEL_SMOOTHING = 0.1


def train_demo_classifier(
    pictures: int = 6000,
    epochs: int = 6,
    *,
    batch_size: int = 64,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> DemoNet:
    """Train the classifier on drawn pictures, some of them partly blackened.

    Args:
        pictures: how many are drawn.
        epochs: times through them.
        batch_size: pictures a step.
        seed: of weights, order and blackening.
        report: told a line an epoch.
    """
    with torch.random.fork_rng(), flushed_denormals():
        torch.manual_seed(seed)
        network = DemoNet().train()
        pixels, classes, masks = _draw(pictures)
        targets = functional.one_hot(classes, len(LABELS)).float()
        targets = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / len(LABELS)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
        batches = pictures // batch_size
        steps = epochs * batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for epoch in range(epochs):
            losses = []
            for indices in torch.randperm(pictures)[: batches * batch_size].reshape(batches, -1):
                images, wanted = _blacken(pixels[indices], masks[indices], targets[indices])
                loss = functional.cross_entropy(network(normalised(images)), wanted)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            report(f"classifier, epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}")
    return network.eval()


def normalised(pixels: Tensor) -> Tensor:
    """Return uint8 pixels (B, 3, H, W) as the network takes them."""
    mean, std = torch.tensor(IMAGE.mean), torch.tensor(IMAGE.std)
    return (pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]


def _draw(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return uint8 pixels (N, 3, H, W), class ids (N) and masks (N, H, W)."""
    drawn = DrawnPictures(0, count)
    pixels = np.stack([np.asarray(drawn.image(index)) for index in range(count)])
    masks = np.stack([np.asarray(drawn.mask(index)) for index in range(count)])
    classes = torch.tensor([drawn.label(index) for index in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), classes, torch.from_numpy(masks)


def _blacken(pixels: Tensor, masks: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Black out the shape in some pictures and its surroundings in others.

    Without a shape every class is equally likely. A classifier that never saw black would take it
    for some class, and the head would rightly learn to point anywhere for that class.
    """
    reach = 2 * int(torch.randint(2, 9, ())) + 1
    down = functional.max_pool2d(masks[:, None].float(), (reach, 1), 1, (reach // 2, 0))
    near = functional.max_pool2d(down, (1, reach), 1, (0, reach // 2))  # as one square, but quicker
    kind = torch.randint(4, (len(pixels), 1, 1, 1))
    kept = torch.where(kind == 0, 1 - near, torch.where(kind == 1, near, torch.ones_like(near)))
    uniform = torch.full_like(targets, 1 / len(LABELS))
    return pixels * kept, torch.where(kind.flatten(1) == 0, uniform, targets)
