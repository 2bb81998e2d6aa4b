"""The Gaussian on the 24 h circle, in NumPy and in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stats.circle import circular_distance, gaussian, normal_density
from training.time_modules import base


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_numpy_and_torch_weigh_hours_alike(sigma: float) -> None:
    now, slots = 23.25, np.arange(24) + 0.5
    distance = circular_distance(slots - now)
    of_torch = base.circular_distance(torch.tensor(slots), torch.tensor(now))
    assert np.allclose(distance, of_torch.numpy(), atol=1e-13)
    assert np.allclose(normal_density(distance, sigma), base.normal_density(of_torch, sigma).numpy(), rtol=1e-12)


def test_the_kernel_is_one_at_no_distance_and_the_density_integrates_to_one() -> None:
    assert gaussian(0.0) == 1.0
    grid = np.linspace(-12, 12, 24_001)
    assert np.trapezoid(normal_density(grid, 1.5), grid) == pytest.approx(1)
