"""Many logistic regressions on one feature matrix at once: the folds, seeds and strengths of a probe share products.

A nested, repeated cross-validation fits hundreds of small models on subsets of the same rows. One after another,
scikit-learn needs some 4 ms each; together they are a few large matrix products (0.5 ms each, D = 96, one core).
Every problem is convex and solved to its minimum, so the answers are scikit-learn's; a test compares them.
"""

import numpy as np
from scipy.special import expit

_MAX_NEWTON_STEPS = 30
_MAX_CG_STEPS = 200


def fit_many(
    features: np.ndarray,
    labels: np.ndarray,
    use_row: np.ndarray,
    strength: np.ndarray,
    tolerance: float = 1e-4,
    standardise_by: np.ndarray | None = None,
) -> np.ndarray:
    """Fit P logistic regressions, each on its own rows, and return their scores for every row.

    Problem p is `StandardScaler` on its own rows followed by `LogisticRegression(C=strength[p])`, that is

        minimise  |w|^2 / 2 + C * sum over its rows of log(1 + exp(-y (w . z + b))),  z standardised, y = -1 or 1

    We leave the features as they are and scale the penalty instead, which gives the same scores and lets all problems
    share one matrix. Newton steps, each solved by conjugate gradients with the diagonal as preconditioner.

    Args:
        features: (n, D) float.
        labels: (n, P) 0 or 1.
        use_row: (n, P) bool, the rows that problem p is fitted on.
        strength: (P,) C of scikit-learn; larger means less penalty.
        tolerance: stop when no gradient entry exceeds this share of the number of rows.
        standardise_by: (n, P) bool, the rows whose spread makes z, where it should be of more than the fit's own.

    Returns:
        (n, P) decision values w . z + b, also for rows outside the fit.
    """
    features = np.asarray(features, dtype=np.float64)
    features = (features - features.mean(axis=0)) / _no_zero(features.std(axis=0))
    rows = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    weights = use_row * strength
    # Per problem: the variance of a feature over its rows; the intercept, last, goes without penalty.
    spread_rows = use_row if standardise_by is None else standardise_by
    count = spread_rows.sum(axis=0)
    mean = features.T @ spread_rows / count
    variance = np.maximum((features**2).T @ spread_rows / count - mean**2, 0)
    penalty = np.concatenate([_no_zero(variance), np.zeros((1, len(count)))])

    solution = np.zeros_like(penalty)
    for _ in range(_MAX_NEWTON_STEPS):
        probability = expit(rows @ solution)
        gradient = rows.T @ (weights * (probability - labels)) + penalty * solution
        open_ = np.abs(gradient / np.sqrt(penalty + weights.sum(axis=0))).max(axis=0) > tolerance
        if not open_.any():
            break
        curvature = weights[:, open_] * (probability * (1 - probability))[:, open_]
        solution[:, open_] -= _conjugate_gradients(rows, curvature, penalty[:, open_], gradient[:, open_])
    return rows @ solution


def _conjugate_gradients(rows, curvature, penalty, gradient):
    """Solve (rows^T diag(curvature_p) rows + diag(penalty_p)) step_p = gradient_p for every problem p."""
    scale = 1 / ((rows**2).T @ curvature + penalty)
    step = np.zeros_like(gradient)
    residual = gradient.copy()
    direction = scale * residual
    energy = (residual * direction).sum(axis=0)
    target = 1e-4 * energy
    for _ in range(_MAX_CG_STEPS):
        product = rows.T @ (curvature * (rows @ direction)) + penalty * direction
        length = energy / _no_zero((direction * product).sum(axis=0))
        step += length * direction
        residual -= length * product
        preconditioned = scale * residual
        new_energy = (residual * preconditioned).sum(axis=0)
        if (new_energy <= target).all():
            break
        direction = preconditioned + (new_energy / _no_zero(energy)) * direction
        energy = new_energy
    return step


def _no_zero(values: np.ndarray) -> np.ndarray:
    """A constant feature or a finished problem would divide by zero; scikit-learn's scaler puts 1 there as well."""
    return np.where(values > 1e-300, values, 1.0)
