"""Does a network know how far its features are to be trusted?"""

from typing import Any

import numpy as np
from scipy import stats


def rank_correlation(confidence: np.ndarray, quality: np.ndarray) -> float:
    """Returns Spearman's rho of confidence [N] and quality [N]; 0 if one is flat."""
    if np.ptp(confidence) == 0 or np.ptp(quality) == 0:
        return 0.0
    found: Any = stats.spearmanr(confidence, quality)
    return float(found.statistic)
