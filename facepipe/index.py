"""The gallery on disk: exact search over unit vectors, checked before a byte is believed.

One FAISS scalar quantizer of float16 under inner product: the vectors of the tables are
float16 already, so its scores are those of IndexFlatIP to the bit, at half the memory and
about 1.8 times the speed (100,000 x 512, one thread). Legend: Q queries, N faces, K hits,
D dimensions.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from facepipe.errors import CorruptData, ModelMismatch, UsageError
from facepipe.gallery import GALLERY, UNIT_TOLERANCE
from facepipe.index_manifest import ROWS, VECTORS, IndexFile, Manifest, Shard, read_manifest
from facepipe.store import Store, open_store

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

FOURCC = b"IxSQ"  # how faiss marks a scalar quantizer; no other loader of faiss is reached
MAX_HEADER_BYTES = 4096  # around the codes; faiss 1.15 writes 81
ADD_ROWS = 65536  # widened to float32 at a time
HASH_BYTES = 2**20
NO_HIT = ""


class IndexSettings(BaseModel):
    """What the threshold of a gallery promises."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fpir: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="false positive identification rate (ISO/IEC 19795-1): the chance that the "
        "search with one face of a stranger puts anybody of the gallery above the threshold; "
        "per search, not per comparison (FMR), which is smaller by the number of faces",
    )
    seed: int = Field(0, ge=0, description="of the sample that the threshold is calibrated on")


def _faiss() -> Any:
    """Return faiss on one thread: OpenMP that has run hangs in a forked process (faiss 5206)."""
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def encode_vectors(vectors_ND: NDArray[np.float16]) -> tuple[bytes, str]:
    """Return unit vectors as the bytes of a FAISS index, and the version of FAISS."""
    faiss = _faiss()
    rows, dim = vectors_ND.shape
    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for start in range(0, rows, ADD_ROWS):
        index.add(vectors_ND[start : start + ADD_ROWS].astype(np.float32))
    data = faiss.serialize_index(index)
    del index  # before the next copy
    return data.tobytes(), str(faiss.__version__)


def verify_shard(store: Store, shard: Shard) -> None:
    """Check every file of a shard by size and hash. Raises CorruptData, naming the file."""
    for name, file in shard.files.items():
        with _opened(store, shard.key(name)) as stream:
            _check(stream, file, f"{store.uri}/{shard.key(name)}")


@contextmanager
def _checked(store: Store, key: str, file: IndexFile) -> Iterator[BinaryIO]:
    """Open a file whose bytes have been checked; what is read is what was hashed.

    What comes over the network comes once, to a temporary file that has no name.
    """
    with _opened(store, key) as stream:
        where = f"{store.uri}/{key}"
        if store.local is None:
            with tempfile.TemporaryFile() as copy:
                _check(stream, file, where, copy)
                yield cast(BinaryIO, copy)
        else:
            _check(stream, file, where)
            yield stream


def _opened(store: Store, key: str) -> BinaryIO:
    try:
        return store.open(key)
    except OSError as error:
        why = error.strerror or "it is missing"
        raise CorruptData(f"{store.uri}/{key} cannot be read ({why}): {_REMEDY}") from error


def _check(stream: BinaryIO, file: IndexFile, where: str, copy: IO[bytes] | None = None) -> None:
    """Compare a stream with its manifest, the size before the bytes, and rewind it and COPY."""
    size = stream.seek(0, 2)
    if size != file.bytes:
        raise CorruptData(f"{where} has {size} bytes and not {file.bytes}: {_REMEDY}")
    stream.seek(0)
    digest = hashlib.sha256()
    while block := stream.read(HASH_BYTES):
        digest.update(block)
        if copy is not None:
            copy.write(block)
    if digest.hexdigest() != file.sha256:
        raise CorruptData(f"{where} does not match its checksum: {_REMEDY}")
    (copy or stream).seek(0)


_REMEDY = "the index is damaged; build it again with facepipe index build"


def _read_rows(store: Store, shard: Shard) -> pa.Table:
    where = f"{store.uri}/{shard.key(ROWS)}"
    with _checked(store, shard.key(ROWS), shard.files[ROWS]) as stream:
        try:
            parquet = pq.ParquetFile(stream)
            good = parquet.metadata.num_rows == shard.rows and parquet.schema_arrow == GALLERY
            rows = parquet.read(use_threads=False) if good else None
        except pa.ArrowException as error:
            raise CorruptData(f"{where} is no Parquet file ({error}): {_REMEDY}") from error
    if rows is None:
        raise CorruptData(f"{where} does not have the rows of its manifest: {_REMEDY}")
    face_ids = rows.column("face_id")
    if len(rows) > 1 and not pc.all(pc.less(face_ids[:-1], face_ids[1:])).as_py():
        raise CorruptData(f"{where} is not in the order of face_id: {_REMEDY}")
    return rows.combine_chunks()


def _read_vectors(store: Store, shard: Shard, dim: int) -> Any:
    """Open a FAISS file: a hostile one has crashed its loader (faiss 5400, 5485)."""
    where, file = f"{store.uri}/{shard.key(VECTORS)}", shard.files[VECTORS]
    header = file.bytes - shard.rows * dim * 2
    if not 0 < header <= MAX_HEADER_BYTES:
        raise CorruptData(
            f"{where}: {file.bytes} bytes cannot hold {shard.rows} x {dim} float16: {_REMEDY}"
        )
    with _checked(store, shard.key(VECTORS), file) as stream:
        if stream.read(len(FOURCC)) != FOURCC:
            raise CorruptData(f"{where} is not a float16 FAISS index: {_REMEDY}")
        stream.seek(0)
        index = _deserialize(stream, file.bytes, where)
    found = (type(index).__name__, index.d, index.ntotal, index.metric_type)
    faiss = _faiss()
    if found != ("IndexScalarQuantizer", dim, shard.rows, faiss.METRIC_INNER_PRODUCT):
        raise CorruptData(f"{where} holds {found}, its manifest {shard.rows} x {dim}: {_REMEDY}")
    if index.sq.qtype != faiss.ScalarQuantizer.QT_fp16:
        raise CorruptData(f"{where} does not hold float16: {_REMEDY}")
    return index


def _deserialize(stream: BinaryIO, size: int, where: str) -> Any:
    faiss = _faiss()
    before = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    try:
        return faiss.read_index(faiss.PyCallbackIOReader(stream.read))
    except RuntimeError as error:  # faiss has no class of its own
        raise CorruptData(f"{where} is no FAISS index ({error}): {_REMEDY}") from error
    finally:
        faiss.set_deserialization_vector_byte_limit(before)


@dataclass(frozen=True, slots=True)
class Gallery:
    """An open gallery; safe to search from several threads."""

    uri: str
    version: str
    record: Manifest = field(repr=False)
    _rows: pa.Table = field(repr=False)
    _index: Any

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self._rows)

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the manifest as it is stored."""
        return self.record.model_dump(mode="json")

    @property
    def threshold(self) -> float:
        """Return the score from which a hit is called the same person."""
        return self.record.threshold.value

    @property
    def model_id(self) -> str:
        """Return the id of the model (and flip test) that made the vectors."""
        return self.record.embedding.model_id

    @property
    def dim(self) -> int:
        """Return D."""
        return self.record.embedding.dim

    def search(
        self, vectors_ND: NDArray[np.floating], k: int
    ) -> tuple[Float32, NDArray[np.object_]]:
        """Return the cosines (N x K, float32, falling) and face ids (N x K, str) of the best.

        Exact; equal scores are in the order of face_id. A gallery of fewer than k faces
        fills up with score -inf and id "". A query's result does not depend on the others.

        Raises UsageError for k < 1 and for queries that are no finite unit vectors,
        ModelMismatch for vectors of another length than the gallery's.
        """
        queries = self._checked_queries(vectors_ND, k)
        kept = min(k, len(self))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        face_ids = np.full((len(queries), k), NO_HIT, dtype=object)
        if kept and len(queries):
            scores[:, :kept], places = self._nearest(queries, kept)
            found = self._rows.column("face_id").take(pa.array(places.ravel()))
            face_ids[:, :kept] = np.array(found.to_pylist(), object).reshape(places.shape)
        return scores, face_ids

    def rows(self, face_ids: Sequence[str]) -> pa.Table:
        """Return the rows (face_id, uri, member, box, identity) of faces, in their order.

        Raises UsageError for a face that is not in the gallery.
        """
        wanted = pa.array(list(face_ids), pa.string())
        places = pc.index_in(wanted, value_set=self._rows.column("face_id").combine_chunks())
        if places.null_count:
            missing = wanted.filter(places.is_null())[0].as_py()
            raise UsageError(f"face {missing!r} is not in the gallery {self.uri}")
        return self._rows.take(places)

    def _checked_queries(self, vectors_ND: NDArray[np.floating], k: int) -> Float32:
        if k < 1:
            raise UsageError(f"k is {k}: ask for at least one hit")
        queries = np.ascontiguousarray(vectors_ND, dtype=np.float32)
        if queries.ndim != 2:
            raise UsageError(f"queries have the shape {queries.shape}: give N x {self.dim}")
        if queries.shape[1] != self.dim:
            raise ModelMismatch(
                f"queries have {queries.shape[1]} dimensions, the gallery {self.uri} has "
                f"{self.dim}: embed them with its model, {self.model_id[:12]}"
            )
        lengths = np.sqrt(np.einsum("nd,nd->n", queries, queries))
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
        if len(wrong):
            raise UsageError(
                f"query {wrong[0]} is no unit vector (length {lengths[wrong[0]]}): "
                "normalise it first, as facepipe.embed.normalise does"
            )
        return queries

    def _nearest(self, queries_QD: Float32, k: int) -> tuple[Float32, Int64]:
        """Return the k best scores and rows; FAISS leaves open which of equal scores it gives."""
        scores, places = self._index.search(queries_QD, min(k + 1, len(self)))
        order = np.lexsort((places, -scores), axis=-1)
        scores = np.take_along_axis(scores, order, axis=1)
        places = np.take_along_axis(places, order, axis=1)
        if scores.shape[1] > k:
            for q in np.flatnonzero(scores[:, k - 1] == scores[:, k]):
                scores[q, :k], places[q, :k] = self._with_ties(queries_QD[q], scores[q, k], k)
        return scores[:, :k], places[:, :k]

    def _with_ties(self, query_D: Float32, last: np.float32, k: int) -> tuple[Float32, Int64]:
        """Return the k best of every row that scores at least ``last``."""
        below = float(np.nextafter(last, np.float32(-np.inf)))
        _, scores, places = self._index.range_search(query_D[None], below)
        best = np.lexsort((places, -scores))[:k]
        return scores[best], places[best]


def open_index(uri: str | Path) -> Gallery:
    """Open the gallery in a folder or at a uri, after checking the bytes of all its files.

    Raises DatasetNotFound where there is none, CorruptData where a file is missing, changed,
    or not what its manifest says.
    """
    store = open_store(uri)
    version, manifest = read_manifest(store)
    if len(manifest.shards) != 1 or set(manifest.shards[0].files) != {VECTORS, ROWS}:
        raise CorruptData(f"{uri}: this facepipe reads indexes of one shard: {_REMEDY}")
    shard = manifest.shards[0]
    rows = _read_rows(store, shard)
    index = _read_vectors(store, shard, manifest.embedding.dim)
    return Gallery(str(uri), version, manifest, rows, index)
