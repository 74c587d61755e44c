from typing import NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import at, check_array, refuse_where
from chandrop.uncertainty._sums import cumulative


class RiskCoverage(NamedTuple):
    """What is left of the errors if the most uncertain are left out.

    See :func:`risk_coverage_curve`.
    """

    coverage: mx.array
    risk: mx.array
    threshold: mx.array


def risk_coverage_curve(errors: mx.array, uncertainty: mx.array) -> RiskCoverage:
    """Says how many errors are left if only the least uncertain predictions are accepted.

    Args:
        errors: what each prediction costs, of any shape: a squared error, or
            ``probabilities.argmax(-1) != labels``.
        uncertainty: of the same shape: ``mutual_information``, ``total``, ...

    Returns:
        A named tuple of float32 arrays ``(N,)``, for the ``N`` predictions from the least
        uncertain to the most. Entry ``i`` is for accepting those that are at most as
        uncertain as this one, so that equally uncertain ones have equal entries.

        * ``coverage``: the share that is accepted, up to 1.
        * ``risk``: the mean error of what is accepted; the last is that of all, and
          ``risk.mean()`` the area under the curve (AURC).
        * ``threshold``: the uncertainty of this prediction.

    Raises:
        TypeError: an argument is not an ``mx.array``.
        ValueError: the shapes differ, there are no errors, or there is nan in one (values
            are not checked within ``mx.compile`` and ``mx.vmap``).

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
    _check_no_nan(errors, "errors")
    _check_no_nan(uncertainty, "uncertainty")
    if errors.shape != uncertainty.shape or errors.size == 0:
        raise ValueError(
            f"Received errors of shape {errors.shape} and uncertainty of shape "
            f"{uncertainty.shape}. Expected the same, for at least one prediction."
        )
    order = mx.argsort(uncertainty.flatten())
    threshold = uncertainty.flatten()[order].astype(mx.float32)
    total = cumulative(errors.flatten()[order].astype(mx.float32))
    accepted = _last_equal(threshold) + 1
    return RiskCoverage(accepted / total.size, total[accepted - 1] / accepted, threshold)


def _check_no_nan(array: mx.array, name: str) -> None:
    check_array(array, name)
    refuse_where(mx.isnan(array), lambda index: f"Received nan in {name}{at(index)}.")


def _last_equal(ordered: mx.array) -> mx.array:
    """Gives for each entry the place of the last one that equals it."""
    begins = mx.concatenate([mx.array([False]), ordered[1:] != ordered[:-1]])
    group = mx.cumsum(begins.astype(mx.int32))
    places = mx.arange(ordered.size)
    return mx.zeros_like(places).at[group].maximum(places)[group]
