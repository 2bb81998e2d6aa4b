"""Looking at one comparison many times without inflating its error: sequential limits.

The gate looks at a candidate every hour. With the limits below, the chance of a false "better" over all looks together
stays at the stated level. The spending function is O'Brien and Fleming's (Lan & DeMets 1983, doi:10.1093/biomet/70.3.659);
boundaries come from recursive integration (Armitage, McPherson & Rowe 1969). ``mixture_limit`` needs no planned end.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np

from core.errors import ConfigError

GRID = 2001
REACH = 9
"""Standard deviations of a step up to which it is followed: what goes farther is less than a double's last digit."""
NORMAL = NormalDist()


def alpha_spent(fraction: float, alpha: float) -> float:
    """Two-sided error that may be spent by the time a share of the information has been collected (O'Brien-Fleming).

    Args:
        fraction: share of the planned information, from 0 to 1.
        alpha: two-sided error over all looks.

    Lan & DeMets 1983, doi:10.1093/biomet/70.3.659.

    >>> round(alpha_spent(0.5, 0.05), 5), round(alpha_spent(1.0, 0.05), 5)
    (0.00305, 0.05)
    """
    if fraction <= 0:
        return 0.0
    return 4 * (1 - NORMAL.cdf(NORMAL.inv_cdf(1 - alpha / 4) / float(np.sqrt(min(fraction, 1.0)))))


@lru_cache(maxsize=256)
def boundaries(fractions: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    """Limits for |z| at looks at increasing shares of the information.

    Args:
        fractions: share of the planned information at each look, in (0, 1], increasing.
        alpha: two-sided error over all looks.

    Returns:
        The limit for each look.

    Raises:
        ConfigError: the fractions do not increase within (0, 1].

    >>> [round(limit, 2) for limit in boundaries((0.5, 1.0), 0.05)]
    [2.96, 1.97]
    """
    if (
        not fractions
        or any(b <= a for a, b in zip((0.0, *fractions), fractions, strict=False))
        or fractions[-1] > 1 + 1e-9
    ):
        raise ConfigError(f"looks must come at growing shares of the information in (0, 1], not {fractions}")
    limits: list[float] = []
    density: np.ndarray | None = None  # of the score process z·√t inside the limits so far
    grid = np.zeros(0)
    previous, spent = 0.0, 0.0
    for fraction in fractions:
        target = alpha_spent(fraction, alpha)
        step = fraction - previous
        # A grid wide enough for every value that matters.
        width = 8 * np.sqrt(fraction)
        new_grid = np.linspace(-width, width, GRID)
        if density is None:
            new_density = np.exp(-0.5 * new_grid**2 / fraction) / np.sqrt(2 * np.pi * fraction)
        else:
            new_density = _diffuse(density, grid, new_grid, step)
        tail = _tail(new_grid, new_density)
        limit = _solve(new_grid, tail, max(target - spent, 0.0))
        limits.append(limit / np.sqrt(fraction))
        within = np.abs(new_grid) < limit
        spent = target
        density, grid, previous = np.where(within, new_density, 0.0), new_grid, fraction
    return tuple(float(z) for z in limits)


def _diffuse(density: np.ndarray, grid: np.ndarray, new_grid: np.ndarray, variance: float) -> np.ndarray:
    """Density on a new grid, shape (GRID,), after a normal step was added to a variable whose density is known on an old grid.

    Both are symmetric around 0, the middle of the grids: half is computed.
    """
    spacing, half = grid[1] - grid[0], new_grid[GRID // 2 :]
    reach = int(np.ceil(REACH * np.sqrt(variance) / spacing))
    columns = np.rint((half - grid[0]) / spacing).astype(int)[:, None] + np.arange(-reach, reach + 1)
    distances = half[:, None] - (grid[0] + columns * spacing)
    masses = np.where((columns >= 0) & (columns < GRID), density.take(columns, mode="clip"), 0.0) * spacing
    kernel = np.exp(-0.5 * distances**2 / variance) / np.sqrt(2 * np.pi * variance)
    upper = np.einsum("ij,ij->i", kernel, masses)
    return np.concatenate([upper[:0:-1], upper])


def _tail(grid: np.ndarray, density: np.ndarray) -> np.ndarray:
    """P(|X| > grid value) for the upper half of a symmetric grid."""
    half = grid >= 0
    mass = density[half] * (grid[1] - grid[0])
    return 2 * (mass[::-1].cumsum()[::-1] - mass / 2)


def _solve(grid: np.ndarray, tail: np.ndarray, error: float) -> float:
    """The value whose two-sided tail probability is ``error``, by interpolation on the grid."""
    positive = grid[grid >= 0]
    if error <= tail[-1]:
        return float(positive[-1])
    return float(np.interp(-error, -tail, positive))


def limit_at(look: int, looks: int, first: int, alpha: float) -> float:
    """Limit for |z| at one look of a comparison with equally spaced looks, such as one every hour.

    Args:
        look: number of the look, from ``first`` on; larger than ``looks`` counts as the last.
        looks: number of the last look.
        first: number of the first look.
        alpha: two-sided error over all looks.

    >>> round(limit_at(2, 2, 1, 0.05), 2)
    1.97
    """
    so_far = tuple(
        n / looks for n in range(first, min(max(look, first), looks) + 1)
    )  # later looks do not change this one's
    return boundaries(so_far, alpha)[-1]


@lru_cache(maxsize=64)
def _mixture_ratio(alpha: float) -> float:
    """The ratio of the estimate's variance to the mixture's at which the limit is lowest."""
    from scipy.optimize import minimize_scalar

    return float(minimize_scalar(lambda r: _mixture(r, alpha), bounds=(1e-6, 10), method="bounded").x)


def _mixture(ratio: float, alpha: float) -> float:
    return float(np.sqrt((1 + ratio) * np.log((1 + ratio) / (ratio * alpha**2))))


def mixture_limit(fraction: float, alpha: float, *, tuned_for: float | None = None) -> float:
    """Limit for |z| that holds at any time, without a planned end.

    Normal mixture (Robbins 1970, doi:10.1214/aoms/1177696786), asymptotic for means by Waudby-Smith et al. 2024
    (doi:10.1214/24-AOS2408); the mixture is the one whose limit is lowest at ``fraction`` = 1.

    Args:
        fraction: information so far, as a share of the planned information; above 1 is allowed.
        alpha: two-sided error over all time.
        tuned_for: the error for which the mixture is chosen, if not ``alpha``: then |z| is above the limit exactly where
            ``mixture_p_value`` of that error is below ``alpha``.

    Raises:
        ConfigError: there is no information yet.

    >>> round(mixture_limit(1.0, 0.05), 2)
    3.04
    """
    if fraction <= 0:
        raise ConfigError(f"a look needs some information, not {fraction}")
    return _mixture(_mixture_ratio(tuned_for or alpha) / fraction, alpha)


def mixture_p_value(fraction: float, alpha: float, z: float) -> float:
    """P-value that holds at any time: below ``alpha`` exactly where |z| is above ``mixture_limit(fraction, alpha)``.

    The mixture is the one of ``alpha``, whatever z is: 1 / p is then a martingale's value (Johari et al. 2022,
    doi:10.1287/opre.2021.2135).

    Args:
        fraction: information so far, as a share of the planned information, above 0.
        alpha: two-sided error for which the mixture is chosen.
        z: effect in standard errors.

    >>> round(mixture_p_value(0.5, 0.05, mixture_limit(0.5, 0.05)), 6)
    0.05
    """
    ratio = _mixture_ratio(alpha) / fraction
    return min(1.0, float(np.sqrt((1 + ratio) / ratio) * np.exp(-(z**2) / (2 * (1 + ratio)))))
