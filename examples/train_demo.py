"""Train the bundled demo from nothing: a small classifier of drawn shapes, then its TAME head.

    python examples/train_demo.py          # some minutes on two cores

Writes demo-backbone.safetensors, demo-head.safetensors and pictures/ into tame_deploy/data. The
head is trained as in the paper (TAME, section III-C): cross entropy of the masked picture, area
and variation of the map, on the frozen classifier in eval mode.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from tame_deploy.data.shapes import LABELS, draw_picture
from tame_deploy.model import demo
from tame_deploy.model.checkpoint import HeadCheckpoint, write_head
from tame_deploy.model.head import AttentionHead, resize_map
from tame_deploy.types import variant_config

HELD_OUT = 10_000_000  # seeds from here on are never trained on
BATCH = 64


def draw_set(first_seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels in [0, 1] (N, 3, 128, 128), class ids (N) and masks (N, 128, 128)."""
    drawn = [draw_picture(first_seed + index) for index in range(count)]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture, _, _ in drawn]))
    masks = torch.from_numpy(np.stack([mask for _, mask, _ in drawn]))
    classes = torch.tensor([class_id for _, _, class_id in drawn])
    return pixels.permute(0, 3, 1, 2).float() / 255, classes, masks


def normalised(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1] as the network takes them."""
    return (pixels - 0.5) / 0.25


def train(module: nn.Module, step_loss, count: int, epochs: int, rate: float) -> None:
    """Optimise `module` for the mean of `step_loss(indices)`."""
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=1e-3)
    steps = epochs * (count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for epoch in range(epochs):
        losses = []
        for indices in torch.randperm(count)[: count // BATCH * BATCH].split(BATCH):
            loss = step_loss(indices)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}", flush=True)


def blacken(pixels: Tensor, masks: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Black out the shape in some pictures and its surroundings in others.

    Without a shape every class is equally likely. A classifier that never saw black would take it
    for some class, and the head would rightly learn to point anywhere for that class.
    """
    reach = 2 * int(torch.randint(2, 9, ())) + 1
    near = functional.max_pool2d(masks[:, None].float(), reach, 1, reach // 2)
    kind = torch.randint(4, (len(pixels), 1, 1, 1))
    kept = torch.where(kind == 0, 1 - near, torch.where(kind == 1, near, torch.ones_like(near)))
    uniform = torch.full_like(targets, 1 / len(LABELS))
    return pixels * kept, torch.where(kind.flatten(1) == 0, uniform, targets)


def map_loss(
    network: nn.Module, pixels: Tensor, map_logits: Tensor, classes: Tensor, area_weight: float
) -> Tensor:
    """Return the paper's loss, 1.5 CE + 2 area + 0.01 variation, on own maps (B, 1, h, w).

    The weight of the area grows to 2 over the first third: against it at once, some classes' maps
    collapse to nothing before they have learnt to show anything.
    """
    maps = torch.sigmoid(map_logits)
    logits = network(normalised(pixels * resize_map(maps, (demo.IMAGE.height, demo.IMAGE.width))))
    area = ((maps + 0.0005) ** 0.3).mean()
    steps = maps.diff(dim=2).square().sum() + maps.diff(dim=3).square().sum()
    border = maps[..., [0, -1], :].square().sum() + maps[..., [0, -1]].square().sum()
    variation = (steps + 0.3 * border) / (2 * len(maps))
    return 1.5 * functional.cross_entropy(logits, classes) + area_weight * area + 0.01 * variation


def parse_options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--epochs", type=int, nargs=2, default=(10, 10), metavar=("NET", "HEAD"))
    parser.add_argument("--keep-backbone", action="store_true", help="train the head alone")
    parser.add_argument("--output", type=Path, default=demo.HEAD_FILE.parent)
    return parser.parse_args()


def main() -> None:
    """Train, judge on held-out pictures, and write the files."""
    options = parse_options()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # masks near zero make numbers that processors are slow with
    pixels, classes, masks = draw_set(0, options.pictures)
    targets = functional.one_hot(classes, len(LABELS)).float()
    network = demo.DemoNet().train()

    def network_loss(indices: Tensor) -> Tensor:
        images, wanted = blacken(pixels[indices], masks[indices], targets[indices])
        return functional.cross_entropy(network(normalised(images)), wanted)

    if options.keep_backbone:
        network.load_state_dict(safetensors.torch.load_file(demo.BACKBONE_FILE))
    else:
        train(network, network_loss, len(pixels), options.epochs[0], 4e-3)
    network.eval().requires_grad_(False)

    features: list[Tensor] = []
    for name in demo.LAYERS:
        getattr(network, name).register_forward_hook(lambda _m, _i, out: features.append(out))
    torch.manual_seed(1)  # so that the head does not depend on how its backbone came about
    head = AttentionHead(variant_config("tame", (48, 96, 128), len(LABELS)))
    # Start from maps that show nearly everything: from maps that show nothing, where the sigmoid is
    # flat, a head does not come back.
    assert head.fuser.bias is not None
    head.fuser.bias.data.fill_(3.0)

    def own_maps(images: Tensor) -> tuple[Tensor, Tensor]:
        features.clear()
        predicted = network(normalised(images)).argmax(1)
        taken = list(features)
        return head(taken)[torch.arange(len(images)), predicted][:, None], predicted

    steps = iter(range(1_000_000))
    ramp = options.epochs[1] * len(pixels) // BATCH / 3

    def head_loss(indices: Tensor) -> Tensor:
        map_logits, predicted = own_maps(pixels[indices])
        area_weight = 2 * min(1.0, next(steps) / ramp)
        return map_loss(network, pixels[indices], map_logits, predicted, area_weight)

    train(head, head_loss, len(pixels), options.epochs[1], 2e-3)
    head.eval()

    pixels, classes, masks = draw_set(HELD_OUT, 1200)
    with torch.no_grad():
        maps, predicted = own_maps(pixels)
    maps = resize_map(maps, (demo.IMAGE.height, demo.IMAGE.width))
    peaks = maps.flatten(1).argmax(1)
    hits = masks.flatten(1)[torch.arange(len(peaks)), peaks].float().mean()
    accuracy = (predicted == classes).float().mean()
    print(f"held out: accuracy {accuracy:.1%}, pointing game {hits:.1%}")

    write_files(options.output, network, head)


def write_files(output: Path, network: nn.Module, head: AttentionHead) -> None:
    """Write both checkpoints and some held-out pictures."""
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    (output / demo.BACKBONE_FILE.name).write_bytes(safetensors.torch.save(state))
    checkpoint = HeadCheckpoint(head, demo.NAME, demo.LAYERS)
    write_head(checkpoint, output / demo.HEAD_FILE.name, overwrite=True)
    (output / "pictures").mkdir(exist_ok=True)
    for index in range(2 * len(LABELS)):
        picture, _, class_id = draw_picture(HELD_OUT + index)
        picture.save(output / "pictures" / f"{LABELS[class_id]}-{index // len(LABELS) + 1}.png")


if __name__ == "__main__":
    main()
