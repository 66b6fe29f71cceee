"""Hierarchical clustering of tracklets by average linkage, and the number of clusters.

Zhang et al.: Tracking Persons-of-Interest via Adaptive Discriminative Features (ECCV
2016). The distance of two clusters is the mean squared Euclidean distance over all
pairs of a face of one and a face of the other, so long tracklets weigh more.
"""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import silhouette_score

from fr_jax.errors import UserError

Array = np.ndarray

MOST = 50  # clusters up to which their number is searched


def tracklet_distances(embeddings: Array, tracklet: Array) -> tuple[Array, Array]:
    """Returns mean squared distances [T, T] of faces of two tracklets, and sizes [T].

    The mean over pairs is |m_a - m_b|^2 + v_a + v_b, with the means m and the mean
    squared deviations v of each tracklet. The diagonal is 0.

    Args:
      embeddings: [N, D].
      tracklet: int [N], every number from 0 to T - 1 at least once.
    """
    embeddings = np.asarray(embeddings, np.float64)
    sizes = np.bincount(tracklet)
    means = np.zeros((len(sizes), embeddings.shape[1]))
    np.add.at(means, tracklet, embeddings)
    means /= sizes[:, None]
    deviations = np.sum((embeddings - means[tracklet]) ** 2, axis=1)
    spread = np.bincount(tracklet, deviations) / sizes
    squares = np.sum(means**2, axis=1)
    apart = np.maximum(squares[:, None] + squares - 2 * means @ means.T, 0)
    distances = apart + spread[:, None] + spread
    np.fill_diagonal(distances, 0)
    return distances, sizes


class Tree(NamedTuple):
    """Merges of T items in order of their heights.

    Attributes:
      merges: int [M, 2], clusters: i < T is item i, T + i the result of merge i. M is
        less than T - 1 if some clusters must not be merged.
      heights: [M], the distances at which they were merged.
      size: T.
    """

    merges: Array
    heights: Array
    size: int

    @property
    def fewest(self) -> int:
        """The number of clusters when all merges are done."""
        return self.size - len(self.merges)

    def cut(self, count: int) -> Array:
        """Returns the cluster [T] of every item, numbered by their first items.

        Raises:
          UserError: for a number of clusters that the tree cannot give.
        """
        if not self.fewest <= count <= self.size:
            raise UserError(
                f"{count} clusters of {self.size} tracklets; "
                f"{self.fewest} to {self.size} are possible"
            )
        owner = np.arange(self.size + len(self.merges))
        for number in range(self.size - count - 1, -1, -1):
            owner[self.merges[number]] = owner[self.size + number]
        # An item's owner is an item or the last merge above it.
        _, first, cluster = np.unique(
            owner[: self.size], return_index=True, return_inverse=True
        )
        return np.argsort(np.argsort(first))[cluster]


def average_linkage(distances: Array, sizes: Array, apart: Array | None = None) -> Tree:
    """Merges the closest clusters, again and again.

    The distance of a merged cluster is the mean of those of its parts, weighted by
    their sizes. Found by chains of nearest neighbours (Müllner: Modern hierarchical,
    agglomerative clustering algorithms, arXiv 1109.2378, section 3.2) in O(T^2).

    Args:
      distances: [T, T], symmetric.
      sizes: [T], faces in each item.
      apart: bool [T, T], symmetric: items that are never in one cluster; None: none.

    >>> distances = np.array([[0, 1, 4], [1, 0, 8], [4, 8, 0]])
    >>> average_linkage(distances, np.array([3, 1, 1])).heights
    array([1., 5.])
    """
    count = len(distances)
    between = np.array(distances, np.float64)
    np.fill_diagonal(between, np.inf)
    if apart is not None:
        between[apart] = np.inf
    weight = np.array(sizes, np.float64)
    # Rounding must not put a merge below those that it consists of.
    level = np.zeros(count)
    active = np.ones(count, bool)
    merges, heights, chain = [], [], []
    while active.any():
        if not chain:
            chain.append(int(np.argmax(active)))
        last = chain[-1]
        nearest = int(np.argmin(between[last]))
        # In a tie the former of the chain is taken, or the chain would never end.
        if len(chain) > 1 and between[last, chain[-2]] == between[last, nearest]:
            nearest = chain[-2]
        height = between[last, nearest]
        if np.isinf(height):  # nothing may be merged with this one
            active[chain.pop()] = False
        elif len(chain) > 1 and nearest == chain[-2]:
            kept, gone = sorted((last, nearest))
            del chain[-2:]
            merges.append((kept, gone))
            level[kept] = max(height, level[kept], level[gone])
            heights.append(level[kept])
            total = weight[kept] + weight[gone]
            row = weight[kept] * between[kept] + weight[gone] * between[gone]
            row /= total
            row[kept] = np.inf
            between[kept] = between[:, kept] = row
            between[gone] = between[:, gone] = np.inf
            weight[kept] = total
            active[gone] = False
        else:
            chain.append(nearest)
    return _ordered(merges, heights, count)


def _ordered(merges: list[tuple[int, int]], heights: list[float], count: int) -> Tree:
    """Returns the tree of merges that name the first items of two clusters."""
    order = np.argsort(heights, kind="stable")
    current = np.arange(count)  # number of the cluster of which an item is the first
    numbered = np.empty((len(merges), 2), int)
    for number, row in enumerate(order):
        kept, gone = merges[row]
        numbered[number] = sorted((current[kept], current[gone]))
        current[kept] = count + number
    return Tree(numbered, np.asarray(heights, float)[order], count)


class Estimate(NamedTuple):
    """The number of clusters with the largest silhouette, and all silhouettes."""

    count: int
    silhouettes: dict[int, float]


def estimated_count(
    tree: Tree, distances: Array, apart: Array, most: int = MOST
) -> Estimate:
    """Returns the number of clusters with the largest silhouette.

    Cuts that put items that are `apart` into one cluster are left out. The silhouette
    (Rousseeuw 1987) is the mean over tracklets. If even `most` clusters break a
    cannot-link, the smallest number that breaks none. Without silhouettes, which two
    items do not have, every item that is apart from another is a cluster.

    Args:
      distances: [T, T].
      apart: bool [T, T], tracklets that share a frame.
    """
    if tree.size < 3:
        return Estimate(tree.size if apart.any() else 1, {})
    first, second = np.nonzero(np.triu(apart))
    silhouettes = {}
    for count in range(max(2, tree.fewest), tree.size):
        cluster = tree.cut(count)
        if (cluster[first] == cluster[second]).any():
            continue
        score = silhouette_score(distances, cluster, metric="precomputed")
        silhouettes[count] = float(score)
        if count >= most:
            break
    best = max(silhouettes, key=lambda count: silhouettes[count], default=tree.size)
    return Estimate(best, silhouettes)
