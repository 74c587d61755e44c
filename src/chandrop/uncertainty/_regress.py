from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import at, check_array, check_samples, refuse_where
from chandrop.uncertainty._running import RunningMean, RunningVariance


class Regression(NamedTuple):
    """What the samples of a regression say together; see :func:`regress`."""

    mean: mx.array
    epistemic: mx.array
    aleatoric: mx.array
    total: mx.array


def regress(means: mx.array, variances: mx.array | None = None) -> Regression:
    """Summarises samples of a regression: the mean prediction, and its variance and why.

    Args:
        means: ``(S, ...)``: the predictions of ``S`` samples, such as the subnetworks that
            keys choose.
        variances: ``(S, ...)``, as `means`: the variance that each sample predicts for the
            target, for networks that do. Default: none do.

    Returns:
        A named tuple of float32 arrays ``(...)``. Variances are in the squared unit of the
        predictions; the square root is a standard deviation.

        * ``mean``: the mean of `means`.
        * ``epistemic``: the variance of `means`, divided by ``S``: where samples disagree.
        * ``aleatoric``: the mean of `variances`, the noise that the network expects; 0
          without them.
        * ``total``: their sum, the variance of the mixture (the law of total variance).

    Raises:
        TypeError: `means` or `variances` is not an ``mx.array``.
        ValueError: there are no samples; the shapes differ; a sample is not finite, or
            predicts a negative variance (not checked within ``mx.compile`` and ``mx.vmap``,
            where the values are not known).

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import regress
        >>> summary = regress(mx.array([[1.0], [3.0]]), mx.array([[0.5], [0.5]]))
        >>> [array.item() for array in summary]  # mean, epistemic, aleatoric, total
        [2.0, 1.0, 0.5, 1.5]

    Source: Kendall and Gal, "What uncertainties do we need in Bayesian deep learning for
    computer vision?", NeurIPS 2017, equation 9.
    """
    check_array(means, "means")
    outputs = means if variances is None else (means, variances)
    RunningRegression.check(outputs)
    running = RunningRegression()
    running.add(outputs)
    return running.result()


class RunningRegression:
    """Summarises samples in one pass: it holds means and variances, never the samples."""

    # The last axes of a sample that belong to one prediction: none.
    own_axes = 0

    def __init__(self, name: Callable[[tuple[int, ...]], str] = at) -> None:
        self._name = name
        self._means = RunningVariance()
        self._variances = RunningMean()

    @staticmethod
    def check(outputs: Any) -> None:
        """Raises unless these are means ``(S, ...)``, or a pair of means and variances."""
        means, variances = _pair(outputs)
        check_samples(means, "means", "(S, ...)", least_ndim=1)
        if variances is None:
            return
        check_array(variances, "variances")
        if variances.shape != means.shape:
            raise ValueError(
                f"Received variances of shape {variances.shape} for means of shape "
                f"{means.shape}. Expected the same."
            )

    def add(self, outputs: Any) -> None:
        """Takes samples in that :meth:`check` has let pass."""
        means, variances = _pair(outputs)
        self._refuse_where(~mx.isfinite(means), "means that are nan or inf")
        if variances is not None:
            self._refuse_where(~mx.isfinite(variances), "variances that are nan or inf")
            self._refuse_where(
                variances < 0,
                "variances below 0 (the logarithms of variances need mx.exp)",
            )
            self._variances.add(variances.astype(mx.float32))
        self._means.add(means.astype(mx.float32))

    def arrays(self) -> list[Any]:
        """Gives what is held."""
        return [*self._means.arrays(), self._variances.mean]

    def result(self) -> Regression:
        """Gives the summary of all samples."""
        epistemic = self._means.variance
        aleatoric = mx.broadcast_to(self._variances.mean, epistemic.shape)
        return Regression(self._means.mean, epistemic, aleatoric, epistemic + aleatoric)

    def _refuse_where(self, wrong: mx.array, what: str) -> None:
        refuse_where(
            wrong,
            lambda index: (
                f"Received {what} in sample {self._means.samples + index[0]}"
                f"{self._name(index[1:])}."
            ),
        )


def _pair(outputs: Any) -> tuple[Any, Any]:
    if not isinstance(outputs, (tuple, list)):
        return outputs, None
    if len(outputs) != 2:
        raise ValueError(
            f"Received {len(outputs)} outputs. Expected means, or a pair of means and "
            "variances."
        )
    return outputs[0], outputs[1]
