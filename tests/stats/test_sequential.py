from __future__ import annotations

import numpy as np
import pytest

from core.errors import ConfigError
from stats.sequential import GRID, _diffuse, boundaries, limit_at


def test_a_single_look_has_the_usual_limit() -> None:
    assert boundaries((1.0,), 0.05)[0] == pytest.approx(1.96, abs=0.005)


def test_the_limits_are_those_of_the_literature() -> None:
    """O'Brien-Fleming spending, five equal looks, 5 % two-sided: Lan & DeMets / standard software."""
    assert boundaries((0.2, 0.4, 0.6, 0.8, 1.0), 0.05) == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=0.02)


@pytest.mark.slow
def test_false_alarms_over_all_looks_stay_at_the_level() -> None:
    rng = np.random.default_rng(8)
    fractions = tuple(n / 24 for n in range(4, 25))
    limits = np.array(boundaries(fractions, 0.05))
    steps = rng.normal(0, np.sqrt(1 / 24), (40_000, 24)).cumsum(axis=1)[:, 3:]
    crossed = (np.abs(steps / np.sqrt(fractions)) > limits).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=0.004)


def test_limits_fall_as_information_grows() -> None:
    limits = [limit_at(n, 24, 4, 0.05) for n in range(4, 25)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] < 2.2


def test_looks_that_do_not_grow_are_refused() -> None:
    with pytest.raises(ConfigError, match="growing shares"):
        boundaries((0.5, 0.4), 0.05)


@pytest.mark.parametrize(
    ("fraction", "step", "limit"), [(0.04, 0.04, 0.7), (0.5, 0.5, 2.1), (0.9, 0.01, 2.2), (0.2, 0.7, 1.5)]
)
def test_a_step_followed_nearby_gives_the_whole_convolution(fraction: float, step: float, limit: float) -> None:
    grid, new_grid = (8 * np.sqrt(share) * np.linspace(-1, 1, GRID) for share in (fraction, fraction + step))
    density = np.where(np.abs(grid) < limit, np.exp(-0.5 * grid**2 / fraction) / np.sqrt(2 * np.pi * fraction), 0.0)
    kernel = np.exp(-0.5 * (new_grid[:, None] - grid[None, :]) ** 2 / step) / np.sqrt(2 * np.pi * step)
    whole = kernel @ density * (grid[1] - grid[0])
    np.testing.assert_allclose(_diffuse(density, grid, new_grid, step), whole, rtol=1e-10, atol=1e-15)
