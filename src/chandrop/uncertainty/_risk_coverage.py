from typing import NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import as_array, refuse_where
from chandrop.uncertainty._sums import cumulative


class RiskCoverage(NamedTuple):
    """The risk of accepting the least uncertain; see :func:`risk_coverage_curve`."""

    coverage: mx.array
    risk: mx.array
    threshold: mx.array


def risk_coverage_curve(errors: mx.array, uncertainty: mx.array) -> RiskCoverage:
    """Computes the errors that remain if only the least uncertain predictions are accepted.

    Args:
        errors: the cost of each prediction, of any shape: a squared error, or
            ``probabilities.argmax(-1) != labels``.
        uncertainty: an uncertainty of the same shape, such as ``mutual_information``.

    Returns:
        A named tuple of float32 arrays ``(N,)``, for the ``N`` predictions from the least
        uncertain to the most. Entry ``i`` accepts all predictions that are at most as
        uncertain as prediction ``i``, so equal uncertainties have equal entries.

        * ``coverage``: the share of predictions accepted, up to 1.
        * ``risk``: the mean error of the accepted predictions. ``risk.mean()`` is the area
          under the curve (AURC).
        * ``threshold``: the uncertainty of prediction ``i``.

    Raises:
        TypeError: an argument is not a real ``mx.array``.
        ValueError: the shapes differ; there are no predictions; an argument contains nan,
            which is not checked within ``mx.compile`` and ``mx.vmap``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import risk_coverage_curve
        >>> wrong = mx.array([False, True, False, True])
        >>> curve = risk_coverage_curve(wrong, mx.array([0.1, 0.9, 0.2, 0.5]))
        >>> [round(risk, 3) for risk in curve.risk.tolist()]
        [0.0, 0.0, 0.333, 0.5]

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective
    classification", JMLR 11, 2010; Geifman and El-Yaniv, "Selective classification for deep
    neural networks", NeurIPS 2017.
    """
    for name, array in (("errors", errors), ("uncertainty", uncertainty)):
        array = as_array(array, name, bools=name == "errors")
        refuse_where(mx.isnan(array), f"nan in {name}")
    if errors.shape != uncertainty.shape or errors.size == 0:
        raise ValueError(
            f"Received errors of shape {errors.shape} and uncertainty of shape "
            f"{uncertainty.shape}. Expected equal shapes, for at least one prediction."
        )
    order = mx.argsort(uncertainty.flatten())
    threshold = uncertainty.flatten()[order].astype(mx.float32)
    total = cumulative(errors.flatten()[order].astype(mx.float32))
    accepted = _last_equal(threshold) + 1
    return RiskCoverage(accepted / total.size, total[accepted - 1] / accepted, threshold)


def _last_equal(ordered: mx.array) -> mx.array:
    """Returns for each entry the position of the last entry that equals it."""
    begins = mx.concatenate([mx.array([False]), ordered[1:] != ordered[:-1]])
    group = mx.cumsum(begins.astype(mx.int32))
    positions = mx.arange(ordered.size)
    return mx.zeros_like(positions).at[group].maximum(positions)[group]
