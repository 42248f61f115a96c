"""Expected calibration error: whether a probability means what it says."""

import numpy as np


def expected_calibration_error(outcomes: np.ndarray, probabilities: np.ndarray, num_bins: int = 10) -> float:
    """How far, on average, a stated probability lies from how often the event then happens.

    Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599), equation 3, with bins of equal width, each
    with its upper end:

        sum over bins of (cases in the bin / all cases) * |mean outcome - mean probability|

    Args:
        outcomes: (n,) 0 or 1; or a share between, such as that of readers who said yes.
        probabilities: (n,) from 0 to 1.
        num_bins: between 0 and 1.

    Raises:
        ValueError: if shapes differ or there is no case, a value is outside 0 to 1, or there is no bin.
    """
    outcomes, probabilities = np.asarray(outcomes, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if outcomes.ndim != 1 or outcomes.shape != probabilities.shape or not len(outcomes) or num_bins < 1:
        raise ValueError(
            f"expected_calibration_error expects outcomes and probabilities of one shape (n,), n >= 1, and at least "
            f"one bin; found {outcomes.shape}, {probabilities.shape} and {num_bins}. Pass one of each a case."
        )
    for name, values in (("outcomes", outcomes), ("probabilities", probabilities)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"expected_calibration_error expects {name} from 0 to 1; found {values.min()} to {values.max()}. "
                f"Turn decision values into probabilities first, and leave out what is not a number."
            )
    bins = np.clip(np.ceil(probabilities * num_bins) - 1, 0, num_bins - 1).astype(int)
    # |sum of outcomes - sum of probabilities| of a bin is its number of cases times the difference of the means.
    gaps = np.bincount(bins, weights=outcomes - probabilities, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(outcomes))
