"""insightface's verification protocol as plain loops over thresholds, in NumPy."""

import numpy as np
from sklearn.model_selection import KFold


def _rates(distances, same, threshold):
    accepted = distances < threshold
    tar = np.sum(accepted & same) / max(np.sum(same), 1)
    far = np.sum(accepted & ~same) / max(np.sum(~same), 1)
    return tar, far, np.mean(accepted == same)


def plain_accuracy(distances, same, folds=10):
    """Returns accuracies and thresholds [folds]: the best of 400 thresholds in each."""
    thresholds = np.arange(0, 4, 0.01)
    accuracies, chosen = [], []
    for train, held_out in KFold(folds).split(same):
        tried = [_rates(distances[train], same[train], t)[2] for t in thresholds]
        best = thresholds[np.argmax(tried)]
        accuracies.append(_rates(distances[held_out], same[held_out], best)[2])
        chosen.append(best)
    return np.array(accuracies), np.array(chosen)


def plain_tar_at_far(distances, same, far=1e-3, folds=10):
    """Returns TAR and FAR [folds] from 4,000 thresholds in each fold."""
    thresholds = np.arange(0, 4, 0.001)
    tars, fars = [], []
    for train, held_out in KFold(folds).split(same):
        tried = np.array(
            [_rates(distances[train], same[train], t)[1] for t in thresholds]
        )
        threshold = 0.0
        if tried.max() >= far:
            # The last threshold of equal rates.
            last = np.append(np.diff(tried) != 0, True)
            threshold = np.interp(far, tried[last], thresholds[last])
        tar, achieved, _ = _rates(distances[held_out], same[held_out], threshold)
        tars.append(tar)
        fars.append(achieved)
    return np.array(tars), np.array(fars)
