"""Agreement of confidence with quality."""

from typing import Any

import numpy as np
from scipy import stats


def rank_correlation(confidence: np.ndarray, quality: np.ndarray) -> float:
    """Returns Spearman's rho of confidence and quality [N]; 0 if one is constant."""
    if np.ptp(confidence) == 0 or np.ptp(quality) == 0:
        return 0.0
    result: Any = stats.spearmanr(confidence, quality)
    return float(result.statistic)
