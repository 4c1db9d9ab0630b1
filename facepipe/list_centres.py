"""The centres of a gallery's lists, as indexes of faiss: stored, searched, checked.

They are stored with 8 bits a dimension: that moves hardly a face to another list, and none to
one where it is not found. While many are trained, the nearest is looked for by 4-bit codes of
them first: 8192 centres in a third of the time, the same one for 999 faces of 1,000. A tree
of centres is no way: faces of strangers are at right angles, and 4 of 64 branches led to the
nearest centre for 72 faces of 100.

Legend: L lists, N vectors, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import UsageError
from facepipe.index_plan import CODE_BITS, MORE_SUBQUANTIZERS, split_evenly

Float32 = NDArray[np.float32]
Device = Literal["cpu", "cuda"]

SHORTLIST = 8  # centres by their codes, of which the nearest is taken


def load_faiss() -> Any:
    """Return faiss on one thread: OpenMP that has run hangs in a forked process (faiss 5206)."""
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def eight_bits() -> tuple[Any, Any]:
    """Return the type and the metric of the centres as they are stored."""
    faiss = load_faiss()
    return faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT


def coded_centres(centres_LD: Float32) -> Any:
    """Return centres as they are stored, in a scalar quantizer of faiss."""
    index = load_faiss().IndexScalarQuantizer(centres_LD.shape[1], *eight_bits())
    index.train(centres_LD)
    index.add(centres_LD)
    return index


def copied_centres(read: Any, dim: int) -> Any:
    """Return a copy of stored centres; None where they are something else."""
    faiss = load_faiss()
    kind, metric = eight_bits()
    ranges = faiss.vector_to_array(read.sq.trained)
    if read.sq.qtype != kind or read.sq.code_size != dim or ranges.size != 2 * dim:
        return None
    copy = faiss.IndexScalarQuantizer(dim, kind, metric)
    faiss.copy_array_to_vector(ranges, copy.sq.trained)
    copy.is_trained = True
    codes = faiss.vector_to_array(read.codes)
    copy.add_sa_codes(codes.reshape(-1, dim))
    return copy


def shortlisting(vectors_ND: Float32, centres: Any) -> Any:
    """Return an index over a flat one that looks through 4-bit codes of its vectors first.

    vectors_ND: to train the codes with; the centres themselves where there are any yet.
    """
    faiss = load_faiss()
    dim, metric = vectors_ND.shape[1], faiss.METRIC_INNER_PRODUCT
    codes = faiss.IndexPQFastScan(dim, split_evenly(dim, MORE_SUBQUANTIZERS), CODE_BITS, metric)
    codes.train(vectors_ND)
    if centres.ntotal:
        codes.add(vectors_ND)
    index = faiss.IndexRefine(codes, centres)
    index.referenced_objects = [codes, centres]
    index.k_factor = SHORTLIST
    return index


def on_gpu(index: Any) -> Any:
    """Return a copy of a flat index on the first GPU. Raises UsageError where there is none."""
    faiss = load_faiss()
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        raise UsageError(
            "index.device=cuda, and this faiss sees no GPU: install faiss-gpu in place of "
            "faiss-cpu on a machine with one, or set index.device=cpu"
        )
    resources = faiss.StandardGpuResources()
    copy = faiss.index_cpu_to_gpu(resources, 0, index)
    copy.referenced_objects = [resources]  # not to be freed before it
    return copy


def graph_is_sound(hnsw: Any, count: int) -> bool:
    """Tell whether every link of a graph over ``count`` centres leads to one on its floor."""
    faiss = load_faiss()
    levels = faiss.vector_to_array(hnsw.levels)
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    links = faiss.vector_to_array(hnsw.neighbors)
    ends = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    if len(levels) != count or len(offsets) != count + 1 or not 0 <= hnsw.entry_point < count:
        return False
    top = int(levels.max(initial=0))
    if levels.min(initial=1) < 1 or top >= len(ends) or hnsw.max_level != top - 1:
        return False
    if levels[hnsw.entry_point] != top or ends[0] != 0 or (np.diff(ends) < 0).any():
        return False
    if offsets[0] != 0 or offsets[-1] != len(links) or (np.diff(offsets) != ends[levels]).any():
        return False
    for floor in range(top):
        nodes = np.flatnonzero(levels > floor)
        places = offsets[nodes][:, None] + np.arange(ends[floor], ends[floor + 1])
        linked = links[places]
        linked = linked[linked != -1]
        if ((linked < 0) | (linked >= count)).any() or (levels[linked] <= floor).any():
            return False
    return True
