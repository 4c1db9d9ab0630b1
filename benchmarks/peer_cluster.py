"""The peers: ways to cluster faces without a label, each with the settings it is tried with.

Used by bench_cluster.py; not part of the product. HDBSCAN and DBSCAN come from scikit-learn,
Leiden from igraph, Infomap from infomap (both GPL); what is not installed is said to be missing.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NEIGHBORS = 80  # FC-ES's, and more than any of the graph methods needs
# Cosine of the weakest edge, or of DBSCAN's radius.
CUTS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)


@dataclass(frozen=True)
class Data:
    """Unit vectors (N, D) and their graph: the k nearest others of each, and what it took."""

    vectors: Array
    rows: Array
    cosine: Array
    graph_s: float


def data(vectors: Array) -> Data:
    """Find the exact neighbours, as the graph methods want them, on one thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    wide = vectors.astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    k = min(NEIGHBORS, len(wide) - 1)
    cosine, rows = faiss.knn(wide, wide, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    own = rows == np.arange(len(wide))[:, None]
    own[~own.any(axis=1), -1] = True
    rows, cosine = rows[~own].reshape(-1, k), cosine[~own].reshape(-1, k)
    return Data(wide, rows, cosine, time.perf_counter() - started)


def _arcs(of: Data, cut: float, k: int = NEIGHBORS) -> tuple[Array, Array, Array]:
    near = of.cosine[:, :k] >= cut
    source = np.repeat(np.arange(len(near)), near.sum(axis=1))
    return source, of.rows[:, :k][near], of.cosine[:, :k][near]


def _edges(of: Data, cut: float) -> tuple[Array, Array, Array]:
    a, b, weight = _arcs(of, cut)
    key, first = np.unique(np.minimum(a, b) * len(of.rows) + np.maximum(a, b), return_index=True)
    return key // len(of.rows), key % len(of.rows), weight[first]


def leiden(of: Data, cut: float, resolution: float) -> Array:
    """Leiden with the constant Potts model (Traag et al. 2019), igraph's."""
    import random

    import igraph

    igraph.set_random_number_generator(random.Random(0))
    a, b, weight = _edges(of, cut)
    graph = igraph.Graph(len(of.rows), np.stack([a, b], axis=1))
    return np.array(
        graph.community_leiden(
            objective_function="CPM", weights=weight, resolution=resolution, n_iterations=5
        ).membership
    )


def infomap(of: Data, cut: float, k: int) -> Array:
    """Infomap, two-level and directed, as face-cluster-by-infomap calls it."""
    return _infomap(len(of.rows), *_arcs(of, cut, k))


def _infomap(nodes: int, source: Array, target: Array, weight: Array) -> Array:
    from infomap import Infomap

    found = Infomap("--two-level --directed --silent --seed 1")
    found.add_links(np.stack([source, target, weight], axis=1).astype(np.float64))
    result = found.run()
    label = np.full(nodes, -1)
    modules = result.modules() if hasattr(result, "modules") else found.modules
    for node, module in dict(modules).items():
        label[node] = module
    return label


def fc_es(of: Data, least: float) -> Array:
    """FC-ES: edges while the neighbour edge probability lasts, then Infomap."""
    import scipy.sparse as sp

    nodes, k = of.rows.shape
    kernel = np.exp(-(2 - 2 * of.cosine) / 0.5)
    kernel /= kernel.sum(axis=1, keepdims=True)
    start = np.arange(0, nodes * k + 1, k)
    share = sp.csr_matrix((kernel.ravel(), of.rows.ravel(), start), shape=(nodes, nodes))
    member = sp.csr_matrix((np.ones(nodes * k), of.rows.ravel(), start), shape=(nodes, nodes))
    common = share @ member.T
    both = (common + common.T).tocsr()
    source = np.repeat(np.arange(nodes), k)
    probability = np.asarray(both[source, of.rows.ravel()]).reshape(nodes, k) / 2
    lasting = np.logical_and.accumulate(probability >= least, axis=1)
    return _infomap(nodes, source[lasting.ravel()], of.rows[lasting], probability[lasting])


def chinese_whispers(of: Data, cut: float) -> Array:
    """Chinese Whispers (Biemann 2006), 20 rounds over the graph."""
    import scipy.sparse as sp

    nodes = len(of.rows)
    a, b, weight = _edges(of, cut)
    graph = sp.coo_matrix((np.r_[weight, weight], (np.r_[a, b], np.r_[b, a])), (nodes, nodes))
    graph = graph.tocsr()
    label, rng = np.arange(nodes), np.random.default_rng(0)
    for _ in range(20):
        changed = 0
        for node in rng.permutation(nodes):
            span = slice(graph.indptr[node], graph.indptr[node + 1])
            if span.start == span.stop:
                continue
            near, place = np.unique(label[graph.indices[span]], return_inverse=True)
            best = near[np.bincount(place, graph.data[span]).argmax()]
            changed += best != label[node]
            label[node] = best
        if not changed:
            break
    return label


def dbscan(of: Data, cut: float, least: int) -> Array:
    """DBSCAN on cosine distance."""
    from sklearn.cluster import DBSCAN

    return DBSCAN(eps=1 - cut, min_samples=least, metric="cosine", n_jobs=1).fit(of.vectors).labels_


def hdbscan(of: Data, size: int, least: int, method: str) -> Array:
    """HDBSCAN on Euclidean distance of unit vectors."""
    from sklearn.cluster import HDBSCAN

    found = HDBSCAN(
        min_cluster_size=size,
        min_samples=least,
        cluster_selection_method=method,
        n_jobs=1,
        copy=True,
    )
    return found.fit(of.vectors.astype(np.float64)).labels_


def hdbscan_pca(of: Data, size: int, least: int, method: str) -> Array:
    """HDBSCAN after PCA to 64 dimensions."""
    centred = of.vectors - of.vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    low = centred @ axes[:, -64:]
    low /= np.linalg.norm(low, axis=1, keepdims=True)
    return hdbscan(Data(low, of.rows, of.cosine, 0.0), size, least, method)


@dataclass(frozen=True)
class Peer:
    """A method, what it needs, and the values of each of its arguments."""

    name: str
    cluster: Callable[..., Array]
    needs: tuple[str, ...]
    grid: tuple[tuple[Any, ...], ...]
    graph: bool = True  # works on the neighbours' graph, whose time is then part of its own

    def settings(self) -> Iterator[tuple[Any, ...]]:
        """Yield every combination."""
        return itertools.product(*self.grid)

    def missing(self) -> list[str]:
        """Return what is not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


_TREES = ((2, 3, 5), (1, 2, 3), ("eom", "leaf"))
PEERS = (
    Peer("Leiden-CPM", leiden, ("igraph",), (CUTS, (0.02, 0.05, 0.1, 0.2))),
    Peer("Infomap", infomap, ("infomap",), (CUTS, (50, 80))),
    Peer("FC-ES", fc_es, ("infomap", "scipy"), ((0.14, 0.18, 0.22, 0.26, 0.3),)),
    Peer("Chinese Whispers", chinese_whispers, ("scipy",), (CUTS,)),
    Peer("DBSCAN", dbscan, ("sklearn",), (CUTS, (1, 2, 3, 5)), False),
    Peer("HDBSCAN, PCA 64", hdbscan_pca, ("sklearn",), _TREES, False),
    Peer("HDBSCAN", hdbscan, ("sklearn",), _TREES, False),
)
