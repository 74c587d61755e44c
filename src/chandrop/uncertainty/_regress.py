from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import Index, as_array, in_sample, refuse_where
from chandrop.uncertainty._sums import RunningMean, RunningVariance


class Regression(NamedTuple):
    """The summary of a regression's samples; see :func:`regress`."""

    mean: mx.array
    epistemic: mx.array
    aleatoric: mx.array
    total: mx.array


def regress(means: mx.array, variances: mx.array | None = None) -> Regression:
    """Averages a regression's samples, and decomposes their variance.

    Args:
        means: ``(S, ...)``, the predictions of ``S`` samples, such as subnetworks.
        variances: ``(S, ...)``, the variance of the target that each sample predicts.
            Default: the network predicts none.

    Returns:
        A named tuple of float32 arrays ``(...)``.

        * ``mean``: the mean of `means`.
        * ``epistemic``: the variance of `means`, with the divisor ``S``: high where samples
          disagree.
        * ``aleatoric``: the mean of `variances`, the noise that the network expects; 0
          without them.
        * ``total``: their sum, the variance of the mixture (the law of total variance).

    Raises:
        TypeError: `means` or `variances` is not a real ``mx.array``.
        ValueError: there are no samples; the shapes differ; a sample is not finite, or
            predicts a negative variance. Traces of ``mx.compile`` and ``mx.vmap`` do not
            check values.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import regress
        >>> summary = regress(mx.array([[1.0], [3.0]]), mx.array([[0.5], [0.5]]))
        >>> [array.item() for array in summary]  # mean, epistemic, aleatoric, total
        [2.0, 1.0, 0.5, 1.5]

    Source: Kendall and Gal, "What uncertainties do we need in Bayesian deep learning for
    computer vision?", NeurIPS 2017, equation 9.
    """
    outputs = (means,) if variances is None else (means, variances)
    RunningRegression.check(*outputs)
    running = RunningRegression()
    running.add(means, variances)
    return running.result()


class RunningRegression:
    """Summarises samples in one pass, without keeping them."""

    # How many of the last axes belong to one prediction: none.
    own_axes = 0

    def __init__(self) -> None:
        self._means = RunningVariance()
        self._variances = RunningMean()

    @staticmethod
    def check(*outputs: object) -> None:
        if len(outputs) not in (1, 2):
            raise ValueError(
                f"Received {len(outputs)} outputs. Expected means, or means and variances."
            )
        means = as_array(outputs[0], "means")
        if means.ndim == 0 or len(means) == 0:
            raise ValueError(
                f"Received means of shape {means.shape}. Expected (S, ...), S >= 1 samples."
            )
        if len(outputs) == 2:
            variances = as_array(outputs[1], "variances")
            if variances.shape != means.shape:
                raise ValueError(
                    f"Received variances of shape {variances.shape}. Expected the shape of "
                    f"the means, {means.shape}."
                )

    def add(
        self,
        means: mx.array,
        variances: mx.array | None = None,
        name: Callable[[Index], str] = in_sample,
    ) -> None:
        """Adds checked samples; `name` describes an index in them for an error message."""
        refuse_where(~mx.isfinite(means), "means that are nan or inf", name=name)
        if variances is not None:
            wrong = (variances < 0) | ~mx.isfinite(variances)
            fix = "If they are logarithms of variances: mx.exp(variances)."
            refuse_where(wrong, "variances that are negative, nan or inf", fix, name)
            self._variances.add(variances.astype(mx.float32))
        self._means.add(means.astype(mx.float32))

    @staticmethod
    def suspects(*outputs: mx.array) -> bool:
        """Suspects nothing: see :class:`RunningClassification`."""
        return False

    @staticmethod
    def refuse(suspicious: bool) -> None:
        """Refuses nothing."""

    def arrays(self) -> list[mx.array]:
        return [*self._means.arrays(), self._variances.mean]

    def result(self) -> Regression:
        epistemic = self._means.variance
        aleatoric = mx.broadcast_to(self._variances.mean, epistemic.shape)
        return Regression(self._means.mean, epistemic, aleatoric, epistemic + aleatoric)
