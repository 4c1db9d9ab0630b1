"""The template of a gallery: trained lists and codebook, empty, shared by all its shards.

With one template the codes of a face do not depend on the shard it is in, so that a search
of 64 shards is a search of one. It is trained on a seeded sample over all sources: the first
rows, as autofaiss and faiss's offline_ivf take them, gave a recall@10 of 0.600 in place of
0.926 where the archive was sorted by person.

RaBitQ and HNSW shards are not offered. RaBitQ of several bits is not the same in 8 shards as
in one, and with one bit it found less than 64 x 4 bits do at twice the bytes and half the
speed; an HNSW graph depends on the order of its vectors, and takes more than they do.

Legend: N vectors, D dimensions, L lists.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import ids
from facepipe.errors import CorruptData, UsageError
from facepipe.index_manifest import NAME_CHARS, IndexFile, Template
from facepipe.index_plan import CENTROIDS, CODE_BITS, IndexPlan
from facepipe.index_sample import sample_places
from facepipe.list_centres import (
    Device,
    coded_centres,
    copied_centres,
    graph_is_sound,
    load_faiss,
    on_gpu,
    shortlisting,
)

__all__ = [
    "Device",
    "TrainedTemplate",
    "describe_template",
    "load_faiss",
    "on_gpu",
    "read_template",
    "sample_places",
    "train_template",
]

Float32 = NDArray[np.float32]

HNSW_EF, HNSW_BUILD_EF = 64, 80  # centres looked at; faiss's 16 and 40 miss more of the nearest
SEEDS = 2**31  # of faiss: a C int
QUANTIZER_AT = 53  # bytes of an IVF index before its quantizer: fourcc, header, nlist, nprobe
MAX_HEADER_BYTES = 4096  # around the arrays; faiss 1.15 writes under 400
FOURCC = {"ivf_sq8": b"IwSq", "ivf_pqfs": b"IwPf"}
CENTRES = (b"IxSQ", b"IHNf")  # a scalar quantizer, and a graph of whole vectors
ITERATIONS = 5  # of k-means; 10 found no more
MANY_CENTRES = 4096
DECODED = 8192  # vectors of the sample that are float32 at a time, when it is clustered
CODEBOOK_SAMPLE = 2**15  # vectors, of which faiss takes 4,096 for a codebook of 4 bits


@dataclass(frozen=True, slots=True)
class TrainedTemplate:
    """A template that has been checked, as a faiss index; nothing is ever added to it."""

    record: Template
    index: Any

    @property
    def quantizer(self) -> Any:
        """Return the faiss index of the lists' centres (inner product)."""
        return self.index.quantizer

    @property
    def dim(self) -> int:
        """Return D."""
        return int(self.index.d)

    @property
    def code_bytes(self) -> int:
        """Return the bytes of one code."""
        return int(self.index.code_size)

    def empty_index(self) -> Any:
        """Return a new index without rows, which shares the centres and copies the codebook."""
        index = _assembled(self.record, self.quantizer, self.dim, _codebook(self.index))
        index.referenced_objects.append(self.index)  # which owns the centres
        return index


def train_template(
    sample_ND: NDArray[np.float16], plan: IndexPlan, seed: int, *, device: Device = "cpu"
) -> bytes:
    """Return the bytes of a trained, empty faiss index for a plan with lists.

    sample_ND: unit vectors, float16, in an order that says nothing of them, and mapped where it
    is large: a part of it is widened at a time. The same sample in the same order gives the same
    bytes, on one type of processor; "cuda" clusters on the first GPU, which rounds otherwise.
    Raises UsageError for too few vectors, for flat, and where no GPU can be used.
    """
    faiss = load_faiss()
    least = max(plan.nlist, CENTROIDS)
    if plan.kind == "flat" or len(sample_ND) < least:
        raise UsageError(
            f"{len(sample_ND)} vectors cannot train {plan.factory or plan.kind}: it takes "
            f"{least} at least; set index.kind=auto"
        )
    dim = sample_ND.shape[1]
    index = faiss.index_factory(dim, plan.factory, faiss.METRIC_INNER_PRODUCT)
    for clustering in (index.cp, index.pq.cp) if plan.kind == "ivf_pqfs" else (index.cp,):
        clustering.seed = seed % SEEDS
        clustering.min_points_per_centroid = 1  # no warning: the plan says how many there are
    index.cp.niter, index.cp.decode_block_size = ITERATIONS, DECODED
    if plan.uses_graph:
        graph = faiss.downcast_index(index.quantizer).hnsw
        graph.efSearch, graph.efConstruction = HNSW_EF, HNSW_BUILD_EF
    few_ND = sample_ND[:CODEBOOK_SAMPLE].astype(np.float32)
    _find_centres(index, sample_ND, few_ND, plan, device)
    index.train(few_ND)  # the codebook alone: the centres are there
    if not plan.uses_graph:
        centres = index.quantizer.reconstruct_n(0, plan.nlist)
        index = _assembled(plan, coded_centres(centres), dim, _codebook(index))
    index.nprobe = 1
    data: bytes = faiss.serialize_index(index).tobytes()
    return data


def _find_centres(
    index: Any, sample_ND: NDArray[np.float16], few_ND: Float32, plan: IndexPlan, device: Device
) -> None:
    """Cluster a sample into the centres of an index, widening it block by block."""
    faiss = load_faiss()
    dim = sample_ND.shape[1]
    clusters = faiss.IndexFlatIP(dim)
    if device == "cuda":
        clusters = on_gpu(clusters)
    elif plan.nlist >= MANY_CENTRES:
        clusters = shortlisting(few_ND, clusters)
    half = faiss.ScalarQuantizer.QT_fp16
    codec = faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)
    codes = np.ascontiguousarray(sample_ND).view(np.uint8)
    clustering = faiss.Clustering(dim, plan.nlist, index.cp)
    clustering.train_encoded(codes.reshape(len(sample_ND), -1), codec, clusters)
    index.quantizer.reset()
    index.quantizer.add(faiss.vector_to_array(clustering.centroids).reshape(plan.nlist, dim))


def describe_template(data: bytes, plan: IndexPlan, seed: int, sample: int) -> Template:
    """Return the record of a template; sample: how many vectors it was trained on."""
    if plan.kind == "flat":
        raise UsageError("flat has no template")
    sha256 = ids.sha256_hex(data)
    return Template(
        name=sha256[:NAME_CHARS],
        kind=plan.kind,
        factory=plan.factory,
        nlist=plan.nlist,
        seed=seed,
        sample=sample,
        faiss=str(load_faiss().__version__),
        file=IndexFile(bytes=len(data), sha256=sha256),
    )


def read_template(data: bytes, template: Template, dim: int) -> TrainedTemplate:
    """Return a template after checking that its bytes are those of its record, and sound.

    Of what faiss reads only the arrays are taken, into an index that is made here; bytes
    that this index would not be written as are refused. Raises CorruptData.
    """
    found = IndexFile(bytes=len(data), sha256=ids.sha256_hex(data))
    if found != template.file:
        raise CorruptData(f"template {template.name} does not match its checksum: {_REMEDY}")
    centres = data[QUANTIZER_AT : QUANTIZER_AT + 4]
    if data[:4] != FOURCC[template.kind] or centres not in CENTRES:
        raise CorruptData(f"template {template.name} is none of {template.kind}: {_REMEDY}")
    faiss = load_faiss()
    # Faiss counts tables that it makes for another metric only, as if they were in the file.
    tables = 4 * CENTROIDS * template.nlist * _subquantizers(template)
    try:
        with _limits(max(len(data), tables) + MAX_HEADER_BYTES, template.nlist):
            read = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except RuntimeError as error:  # faiss has no class of its own
        raise CorruptData(f"template {template.name} is damaged ({error}): {_REMEDY}") from error
    built = _rebuilt(read, template, dim)
    if built is None or faiss.serialize_index(built[0]).tobytes() != data:
        raise CorruptData(
            f"template {template.name} is not {template.factory} of {dim} dimensions: {_REMEDY}"
        )
    return TrainedTemplate(template, built[1])


def _rebuilt(read: Any, template: Template, dim: int) -> tuple[Any, Any] | None:
    """Return what is stored and what is used, made here of arrays; None where they are odd."""
    faiss = load_faiss()
    quantizer, codebook = faiss.downcast_index(read.quantizer), _codebook(read)
    if (read.d, read.nlist, quantizer.d, quantizer.ntotal) != (dim, template.nlist) * 2:
        return None
    graph = isinstance(quantizer, faiss.IndexHNSWFlat)
    store = faiss.downcast_index(quantizer.storage) if graph else quantizer
    if not isinstance(store, faiss.IndexFlat if graph else faiss.IndexScalarQuantizer):
        return None
    if store.codes.size() != template.nlist * dim * (4 if graph else 1):
        return None
    if graph and not graph_is_sound(quantizer.hnsw, template.nlist):
        return None
    if not graph:
        store = copied_centres(quantizer, dim)
    centres = None if store is None else store.reconstruct_n(0, template.nlist)
    if centres is None or not (np.isfinite(centres).all() and np.isfinite(codebook).all()):
        return None
    if not graph:
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(centres)
    used = _assembled(template, quantizer, dim, codebook)
    stored = used if graph else _assembled(template, store, dim, codebook)
    if used is None:
        return None
    used.referenced_objects.append(read)  # which owns the graph
    return stored, used


def _assembled(template: Template | IndexPlan, quantizer: Any, dim: int, codebook: Float32) -> Any:
    """Return a new, trained index without rows; None where the codebook is not one of it."""
    faiss = load_faiss()
    args = (quantizer, dim, template.nlist)
    if template.kind == "ivf_sq8":
        eight_bits, by_residual = faiss.ScalarQuantizer.QT_8bit, True
        index = faiss.IndexIVFScalarQuantizer(
            *args, eight_bits, faiss.METRIC_INNER_PRODUCT, by_residual
        )
        size, target = 2 * dim, index.sq.trained
    else:
        subquantizers = _subquantizers(template)
        if not subquantizers or dim % subquantizers:
            return None
        index = faiss.IndexIVFPQFastScan(
            *args, subquantizers, CODE_BITS, faiss.METRIC_INNER_PRODUCT
        )
        index.by_residual = False  # one table of a query for all lists; the factory's x4fs
        size, target = CENTROIDS * dim, index.pq.centroids
    if codebook.size != size:
        return None
    faiss.copy_array_to_vector(codebook, target)
    index.is_trained = True
    return index


def _subquantizers(template: Template | IndexPlan) -> int:
    found = _SUBQUANTIZERS.search(template.factory)
    return int(found[1]) if found else 0


def _codebook(index: Any) -> Float32:
    faiss = load_faiss()
    scalar = isinstance(index, faiss.IndexIVFScalarQuantizer)
    values: Float32 = faiss.vector_to_array(index.sq.trained if scalar else index.pq.centroids)
    return values


@contextmanager
def _limits(vector_bytes: int, loops: int) -> Iterator[None]:
    """Limit what faiss allocates and repeats on the word of a file; its limits are global."""
    faiss = load_faiss()
    with _LIMITS:
        before = (
            faiss.get_deserialization_vector_byte_limit(),
            faiss.get_deserialization_loop_limit(),
        )
        faiss.set_deserialization_vector_byte_limit(vector_bytes)
        faiss.set_deserialization_loop_limit(loops)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


_LIMITS = threading.Lock()
_SUBQUANTIZERS = re.compile(r",PQ([0-9]{1,5})x4fs$")
_REMEDY = "the index is damaged; build it again with facepipe index build"
