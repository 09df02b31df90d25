"""Gaussian-process regression: Matern 5/2 with a length a dimension, and a quadratic trend where wanted.

Hyper-parameters are the maximum of the posterior, found by L-BFGS with exact gradients (Rasmussen and
Williams 2006, chapter 5). The trend is part of the kernel: a quadratic with a wide normal prior.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raymill.errors import needs_extra

# N = observations, M = points asked about, D = dimensions, H = terms of the trend

_TREND_VARIANCE = 100.0
_JITTER = 1e-10
_ROOT5 = math.sqrt(5.0)
_LENGTH_SPREAD, _NOISE_SPREAD = 1.2, 3.0


class GaussianProcess:
    """A process fitted to (x, y). Values are standardised inside; predictions are in y's unit."""

    def __init__(
        self, x_ND: np.ndarray, y_N: np.ndarray, ordered_D: np.ndarray, *, trend: bool = False,
        noise: float = 1e-4,
    ) -> None:  # fmt: skip
        """Fit.

        Args:
            ordered_D: whether the dimension has distances; else values are equal or not.
            trend: whether a quadratic in x lies under the process.
            noise: the expected variance of the noise, as a share of y's.
        """
        self._x_ND, self._ordered_D, self._trend = x_ND, ordered_D, trend
        self._center, self._spread = float(y_N.mean()), float(y_N.std()) or 1.0
        self._y_N = (y_N - self._center) / self._spread
        dimension = x_ND.shape[1]
        self._prior = np.array([*[math.log(0.5 * math.sqrt(dimension))] * dimension, 0.0, math.log(noise)])
        self._prior_spread = np.array([*[_LENGTH_SPREAD] * dimension, 1.0, _NOISE_SPREAD])
        self._square_DNN = self._squares(x_ND, x_ND)
        self._trend_NN = self._trend_kernel(x_ND, x_ND)
        self._theta = self._best_theta()
        self._condition()

    def with_believed(self, x_MD: np.ndarray) -> GaussianProcess:
        """Return the process that has also seen, at `x_MD`, what it predicts there."""
        if not len(x_MD):
            return self
        believed_M = (self.predict(x_MD)[0] - self._center) / self._spread
        other = object.__new__(GaussianProcess)
        other.__dict__.update(self.__dict__)
        other._x_ND = np.concatenate([self._x_ND, x_MD])
        other._y_N = np.concatenate([self._y_N, believed_M])
        other._square_DNN = self._squares(other._x_ND, other._x_ND)
        other._trend_NN = self._trend_kernel(other._x_ND, other._x_ND)
        other._condition()
        return other

    def predict(self, x_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the noiseless value at each point: float64 [M] each."""
        cross_MN = self._kernel(self._squares(x_MD, self._x_ND)) + self._trend_kernel(x_MD, self._x_ND)
        mean_M = cross_MN @ self._weight_N
        half_NM = _linalg().solve_triangular(self._factor_NN, cross_MN.T, lower=True, check_finite=False)
        own_M = math.exp(self._theta[-2]) + self._trend_own(x_MD)
        variance_M = np.maximum(own_M - (half_NM**2).sum(axis=0), 1e-16)
        return mean_M * self._spread + self._center, np.sqrt(variance_M) * self._spread

    def _squares(self, a_MD: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
        gap_DMN = a_MD.T[:, :, None] - b_ND.T[:, None, :]
        differs_DMN = (np.abs(gap_DMN) > 1e-9).astype(float)
        return np.asarray(np.where(self._ordered_D[:, None, None], gap_DMN**2, differs_DMN))

    def _kernel(self, square_DMN: np.ndarray) -> np.ndarray:
        scaled = np.tensordot(np.exp(-2 * self._theta[:-2]), square_DMN, axes=1)
        r = _ROOT5 * np.sqrt(scaled)
        return np.asarray(math.exp(self._theta[-2]) * (1 + r + r * r / 3) * np.exp(-r))

    def _terms(self, x_MD: np.ndarray) -> np.ndarray:
        x_MD = x_MD[:, self._ordered_D]
        first, second = np.triu_indices(x_MD.shape[1])
        return np.hstack([np.ones((len(x_MD), 1)), x_MD, x_MD[:, first] * x_MD[:, second]])

    def _trend_kernel(self, a_MD: np.ndarray, b_ND: np.ndarray) -> Any:
        return _TREND_VARIANCE * self._terms(a_MD) @ self._terms(b_ND).T if self._trend else 0.0

    def _trend_own(self, x_MD: np.ndarray) -> Any:
        return _TREND_VARIANCE * (self._terms(x_MD) ** 2).sum(axis=1) if self._trend else 0.0

    def _best_theta(self) -> np.ndarray:
        with needs_extra("search"):
            from scipy.optimize import minimize
        span = 4 * self._prior_spread
        bounds = np.stack([self._prior - span, self._prior + span], axis=1)
        bounds[-1, 0] = max(bounds[-1, 0], math.log(1e-9))
        found = minimize(
            self._loss, self._prior, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30}
        )
        return np.asarray(found.x)

    def _loss(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior of the hyper-parameters and its gradient."""
        linalg = _linalg()
        count = len(self._y_N)
        weight_D = np.exp(-2 * theta[:-2])
        r = _ROOT5 * np.sqrt(np.tensordot(weight_D, self._square_DNN, axes=1))
        decay = math.exp(theta[-2]) * np.exp(-r)
        kernel_NN = decay * (1 + r + r * r / 3)
        noise = math.exp(theta[-1])
        total_NN = kernel_NN + self._trend_NN + (noise + _JITTER) * np.eye(count)
        deviation = (theta - self._prior) / self._prior_spread
        try:
            factor = linalg.cho_factor(total_NN, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros(len(theta))
        inverse_NN = linalg.cho_solve(factor, np.eye(count), check_finite=False)
        alpha_N = inverse_NN @ self._y_N
        slope_NN = 0.5 * (inverse_NN - np.outer(alpha_N, alpha_N))
        gradient = np.empty(len(theta))
        inner_NN = slope_NN * decay * (1 + r) * (5 / 3)
        gradient[:-2] = np.tensordot(self._square_DNN, inner_NN, axes=2) * weight_D
        gradient[-2] = (slope_NN * kernel_NN).sum()
        gradient[-1] = np.trace(slope_NN) * noise
        value = 0.5 * self._y_N @ alpha_N + np.log(np.diag(factor[0])).sum() + 0.5 * deviation @ deviation
        return float(value), gradient + deviation / self._prior_spread

    def _condition(self) -> None:
        linalg, count = _linalg(), len(self._y_N)
        total_NN = self._kernel(self._square_DNN) + self._trend_NN
        noise = math.exp(self._theta[-1]) + _JITTER
        while True:
            try:
                self._factor_NN = linalg.cholesky(
                    total_NN + noise * np.eye(count), lower=True, check_finite=False
                )
                break
            except np.linalg.LinAlgError:
                noise *= 10  # points so close together that rounding makes the matrix indefinite
        self._weight_N = linalg.cho_solve((self._factor_NN, True), self._y_N, check_finite=False)


def log_expected_improvement(mean_M: np.ndarray, deviation_M: np.ndarray, best: float) -> np.ndarray:
    """Return the logarithm of the expected improvement below `best`: float64 [M].

    In the logarithm it ranks points also where it underflows (Ament et al. 2023, LogEI).
    """
    with needs_extra("search"):
        from scipy.special import erfcx
    z_M = (best - mean_M) / deviation_M
    density_M = -0.5 * z_M**2 - 0.5 * math.log(2 * math.pi)
    tail_M = math.sqrt(math.pi / 2) * erfcx(np.maximum(-z_M, -25.0) / math.sqrt(2))
    inner_M = np.maximum(1 + z_M * tail_M, 1 / (z_M**2 + 3))  # 1 - |z| Mills(|z|) ~ 1 / z^2
    high_M = np.log(np.maximum(z_M, 1e-12))
    return np.asarray(np.log(deviation_M) + np.where(z_M > 20, high_M, density_M + np.log(inner_M)))


def _linalg() -> Any:
    with needs_extra("search"):
        import scipy.linalg
    return scipy.linalg
