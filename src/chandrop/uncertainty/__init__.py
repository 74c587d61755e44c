"""What a network does not know: samples of its subnetworks, their summary, calibration."""

from chandrop._home import set_home
from chandrop.uncertainty._calibration import (
    Reliability,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)
from chandrop.uncertainty._classify import Classification, classify
from chandrop.uncertainty._gaussian_negative_log_likelihood import (
    gaussian_negative_log_likelihood,
)
from chandrop.uncertainty._predict import predict
from chandrop.uncertainty._regress import Regression, regress
from chandrop.uncertainty._risk_coverage import RiskCoverage, risk_coverage_curve
from chandrop.uncertainty._sample import sample

__all__ = [
    "Classification",
    "Regression",
    "Reliability",
    "RiskCoverage",
    "brier_score",
    "classify",
    "expected_calibration_error",
    "gaussian_negative_log_likelihood",
    "negative_log_likelihood",
    "predict",
    "regress",
    "reliability_curve",
    "risk_coverage_curve",
    "sample",
]

set_home(__name__, *(globals()[name] for name in __all__))
