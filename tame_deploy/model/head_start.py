"""Where the training of a head starts: where CAM ends.

With a skip connection, a branch that adds nothing hands its layer's features to the fuser. With the
classifier's own rows for the last layer, and zeros for all else, the untrained head is CAM (Zhou
et al., CVPR 2016), and training can only improve on it. Where the classifier reads features that
the head does not see as they are (another layer, a norm or layers after the pooling), the rows are
fitted to the maps that `--head cam` gives, by ridge regression in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tame_deploy.errors import InputError
from tame_deploy.model.head import AttentionHead, resize_map
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.model.recipro_cam import ReciproCam

__all__ = ["CamStart", "cam_network", "start_from_cam"]

#: Ridge regression shrinks by this share of the features' mean variance.
_RIDGE = 1e-3
#: How many masked copies of ReciproCAM are run at a time.
_COPIES = 256
#: Maps that are this near to CAM's are CAM's: a share of their range.
_EXACT = 1e-4
_BATCH = 8


@dataclass(frozen=True)
class CamStart:
    """How near the head that training starts from is to CAM: exactly, or by this correlation."""

    exact: bool
    correlation: float

    def __str__(self) -> str:
        if self.exact:
            return "the head starts as CAM, exactly"
        return (
            f"the head starts from maps fitted to those of --head cam (correlation "
            f"{self.correlation:.2f} on the pictures that they were fitted to)"
        )


def cam_network(network: ExplainedNetwork) -> ExplainedNetwork:
    """Return the same backbone with the head that needs no training.

    Raises:
        InputError: if there is none for this backbone.
    """
    return build_network(network.backbone, HeadRequest("cam"))


def start_from_cam(network: ExplainedNetwork, cam: ExplainedNetwork, pictures: Tensor) -> CamStart:
    """Make a random head's maps those of CAM, or as near to them as its last layer allows.

    Args:
        network: its head is changed in place.
        cam: what `cam_network` returns.
        pictures: normalised float32 (N, channels, H, W), that rows are fitted to where they cannot
            be copied, some dozens or hundreds.

    Raises:
        InputError: if the head has no skip connection.
    """
    head = network.attention_head
    if not head.config.skip:
        raise InputError(
            f"a head of variant {head.config.variant} has no skip connection, so it cannot start "
            "from CAM; take --init random, or --set model.variant=tame"
        )
    _silence_branches(head)
    copied = _copy_rows(network, cam)
    if copied:
        distance, correlation = _distance(network, cam, pictures[:_BATCH])
        if distance < _EXACT:
            return CamStart(exact=True, correlation=correlation)
    _fit_rows(network, cam, pictures)
    return CamStart(exact=False, correlation=_distance(network, cam, pictures[: 4 * _BATCH])[1])


@torch.no_grad()
def _silence_branches(head: AttentionHead) -> None:
    """Make the branches add nothing, in a way that training can change (zero gain of the norm)."""
    head.fuser.weight.zero_()
    assert head.fuser.bias is not None
    head.fuser.bias.zero_()
    if len(head.config.fuser_widths(0)) == 1:
        for norm in getattr(head, "bns", ()):
            norm.weight.zero_()
            norm.bias.zero_()


def _batch_size(cam: ExplainedNetwork) -> int:
    """Return how many pictures are run at a time: masked copies are as many pictures more."""
    copies = cam.head.copies.count if isinstance(cam.head, ReciproCam) else 1
    return max(1, min(_BATCH, _COPIES // copies))


def _features_at(head: AttentionHead) -> slice:
    """Return where the fuser's rows of the last layer's features are."""
    widths = [head.config.fuser_widths(layer) for layer in range(len(head.config.channels))]
    before = sum(sum(of_layer) for of_layer in widths[:-1])
    return slice(before, before + widths[-1][0])


@torch.no_grad()
def _copy_rows(network: ExplainedNetwork, cam: ExplainedNetwork) -> bool:
    """Copy the classifier's rows, if the head's last layer is what the classifier pools."""
    # A layer of an auxiliary network may have the same name, and is another one.
    same_layer = network.auxiliary is None and (
        network.features[-1].layer == cam.features[-1].layer
    )
    if cam.head.config.branch != "identity" or not same_layer:
        return False
    rows, head = cam.attention_head.fuser, network.attention_head
    head.fuser.weight[:, _features_at(head)] = rows.weight
    assert rows.bias is not None
    assert head.fuser.bias is not None
    head.fuser.bias.copy_(rows.bias)
    return True


@torch.no_grad()
def _distance(
    network: ExplainedNetwork, cam: ExplainedNetwork, pictures: Tensor
) -> tuple[float, float]:
    """Return the largest difference of likeliest classes' maps to CAM's, as a share of their range.

    And the mean correlation of the two. CAM's maps are resized to the head's.
    """
    worst, correlations = 0.0, []
    for batch in torch.split(pictures, _batch_size(cam)):
        logits, every = cam(batch)
        _, features = network.look(batch)
        likeliest = logits.argmax(1)[:, None]
        found = network.head.class_maps(network.feature_maps(features), likeliest)
        index = likeliest[..., None, None].expand(-1, -1, *every.shape[2:])
        expected = resize_map(every.gather(1, index), (found.shape[2], found.shape[3]))
        span = (expected.amax((1, 2, 3)) - expected.amin((1, 2, 3))).clamp(min=1e-12)
        gap = (found - expected).abs().amax((1, 2, 3)) / span
        worst = max(worst, float(gap.max()))
        pairs = torch.stack([found.flatten(1), expected.flatten(1)], 1)
        correlations += [float(torch.corrcoef(pair)[0, 1]) for pair in pairs.cpu().double()]
    return worst, float(torch.tensor(correlations).nan_to_num().mean())


@torch.no_grad()
def _fit_rows(network: ExplainedNetwork, cam: ExplainedNetwork, pictures: Tensor) -> None:
    """Fit the last layer's rows of all classes to CAM's maps: ridge regression, in closed form."""
    head, last = network.attention_head, len(network.features) - 1
    gram = cross = mean_of_features = mean_of_maps = torch.zeros((), dtype=torch.float64)
    count = 0
    for batch in torch.split(pictures, _batch_size(cam)):
        _, every = cam(batch)  # (B, classes, h, w)
        _, outputs = network.look(batch)
        feature = head.branch(last, network.feature_maps(outputs)[last])[0]
        shrunk = nn.functional.adaptive_avg_pool2d(feature, every.shape[2:])
        # On the processor: not every device has float64.
        inputs = shrunk.permute(0, 2, 3, 1).flatten(0, 2).cpu().double()  # (B h w, C)
        targets = every.permute(0, 2, 3, 1).flatten(0, 2).cpu().double()  # (B h w, classes)
        gram, cross = gram + inputs.T @ inputs, cross + inputs.T @ targets
        mean_of_features = mean_of_features + inputs.sum(0)
        mean_of_maps = mean_of_maps + targets.sum(0)
        count += len(inputs)
    mean_of_features, mean_of_maps = mean_of_features / count, mean_of_maps / count
    covariance = gram / count - torch.outer(mean_of_features, mean_of_features)
    together = cross / count - torch.outer(mean_of_features, mean_of_maps)
    shrink = _RIDGE * covariance.diagonal().mean().clamp(min=1e-12)
    eye = torch.eye(len(covariance), dtype=torch.float64)
    rows = torch.linalg.solve(covariance + shrink * eye, together).T  # (classes, C)
    weight, bias = head.fuser.weight, head.fuser.bias
    assert bias is not None
    weight[:, _features_at(head)] = rows[:, :, None, None].float().to(weight.device)
    bias.copy_((mean_of_maps - rows @ mean_of_features).float())
