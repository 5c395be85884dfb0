"""ROAD's noisy linear imputation, from the grad-cam library's copy of its authors' code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["impute"]

#: Standard deviation of the noise on imputed pixels in [0, 1] (Rong et al., section 4).
NOISE = 0.01


def impute(
    picture: NDArray[np.float32], removed: NDArray[np.bool_], seed: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return a picture whose removed pixels are the weighted mean of their neighbours, plus noise.

    Direct neighbours weigh 1/6, diagonal ones 1/12; unknown neighbours are solved for together.

    Args:
        picture: float32 (H, W, channels) in [0, 1].
        removed: bool (H, W).
        seed: of the noise.
    """
    if not removed.any():
        return picture
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    # The library's call adds noise of torch's global generator, and is slower to solve: the
    # system is symmetric.
    matrix, right = NoisyLinearImputer.setup_sparse_system(
        (~removed).astype(np.float32), picture.transpose(2, 0, 1), neighbors_weights
    )
    solver = splu(
        csc_matrix(matrix),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    filled = picture.copy()
    filled[removed] = solver.solve(right)
    noise = np.random.default_rng(seed).normal(0, NOISE, picture.shape)
    noisy = np.where(removed[..., None], filled + noise, picture)
    return np.clip(noisy, 0, 1).astype(np.float32)
