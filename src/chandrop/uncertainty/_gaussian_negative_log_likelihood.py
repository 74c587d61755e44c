import math

import mlx.core as mx

from chandrop.uncertainty._checks import as_array, refuse_where
from chandrop.uncertainty._reduction import Reduction, reduced


def gaussian_negative_log_likelihood(
    means: mx.array,
    variances: mx.array,
    targets: mx.array,
    *,
    reduction: Reduction = "mean",
) -> mx.array:
    """Returns the mean of ``-log(p)``, where ``p`` is a Gaussian's density at the target.

    The value is a float32, in nats. Lower is better; it may be negative. As in deep
    ensembles, the samples of a regression are scored as one Gaussian, of their ``mean`` and
    ``total`` variance.

    Args:
        means: the predictions, of any shape, such as ``mean`` of :func:`regress`.
        variances: their variances, of the same shape, such as ``total``.
        targets: the true values, of the same shape.
        reduction: ``"mean"``, or ``"none"`` for the value of each prediction.

    Raises:
        TypeError: an argument is not a real ``mx.array``.
        ValueError: the shapes differ; there are no predictions; a variance is not above 0;
            an argument contains nan or inf; `reduction` is unknown. ``mx.compile`` and
            ``mx.vmap`` hide the values from these checks.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import gaussian_negative_log_likelihood, regress
        >>> summary = regress(mx.array([[1.0], [3.0]]), mx.array([[0.5], [0.5]]))
        >>> score = gaussian_negative_log_likelihood(
        ...     summary.mean, summary.total, mx.array([2.5])
        ... )
        >>> round(score.item(), 4)
        1.205

    Source: Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive
    uncertainty estimation using deep ensembles", NeurIPS 2017, equation 1 with its constant
    and section 2.4.
    """
    arrays = {"means": means, "variances": variances, "targets": targets}
    for name, array in arrays.items():
        as_array(array, name)
    if len({array.shape for array in arrays.values()}) > 1 or means.size == 0:
        raise ValueError(
            f"Received means of shape {means.shape}, variances of shape {variances.shape} "
            f"and targets of shape {targets.shape}. Expected equal shapes, for at least "
            "one prediction. For targets (B,) of means (B, 1): targets[:, None]."
        )
    for name in ("means", "targets"):
        refuse_where(~mx.isfinite(arrays[name]), f"{name} that are nan or inf")
    refuse_where(
        ~((variances > 0) & mx.isfinite(variances)),
        "variances that are 0, negative, nan or inf",
        "Samples that all agree have no variance: add that of the noise, for example "
        "variances + 1e-6. If they are logarithms of variances: mx.exp(variances).",
    )
    means, variances, targets = (array.astype(mx.float32) for array in arrays.values())
    # Divided before it is squared, which could overflow.
    deviations = (targets - means) / mx.sqrt(variances)
    values = 0.5 * (math.log(2 * math.pi) + mx.log(variances) + deviations**2)
    return reduced(values, reduction)
