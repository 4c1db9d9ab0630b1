"""Faces by label against the same done face by face, label by label."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import centres
from facepipe.centres import Float32, Int64, LabelledFaces, OneReader, face_impostors
from facepipe.neighbors import unit_rows

Array = npt.NDArray[np.float64]


def people(
    sizes: list[int], seed: int = 0, dim: int = 48, cosine: float = 0.75
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return unit vectors around a random centre for each person, and whose they are."""
    rng = np.random.default_rng(seed)
    centre = unit_rows(rng.normal(size=(len(sizes), dim)))
    person = np.repeat(np.arange(len(sizes)), sizes)
    away = rng.normal(size=(len(person), dim))
    away -= (away * centre[person]).sum(axis=1, keepdims=True) * centre[person]
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return cosine * centre[person] + np.sqrt(1 - cosine**2) * away, person


def labelled(vectors: Array, label: npt.NDArray[np.int64], labels: int) -> LabelledFaces:
    """Return faces whose vectors lie in another order, in float16."""
    order = np.random.default_rng(9).permutation(len(label))
    stored = np.empty_like(vectors, dtype=np.float16)
    stored[order] = vectors
    return LabelledFaces(label_N=label, vector_N=order, vectors_ND=stored, labels=labels)


@pytest.mark.parametrize(("block", "part"), [(4, 8), (7, 7), (16384, 65536)])
def test_leave_one_out_is_the_mean_without_the_face(
    monkeypatch: pytest.MonkeyPatch, block: int, part: int
) -> None:
    monkeypatch.setattr(centres, "BLOCK_ROWS", block)
    monkeypatch.setattr(centres, "PART_ROWS", part)
    vectors, label = people([1, 2, 9, 20, 0, 3])
    faces = labelled(vectors, label, 6)
    weight = np.random.default_rng(1).choice([0.0, 0.05, 0.4, 1.0], len(label))
    cosine, others = np.zeros(len(label)), np.zeros(len(label))
    for _, rows, part_of in faces.parts():
        found = part_of.leave_one_out(weight[rows])
        cosine[rows], others[rows] = found.cosine_N, found.others_N
    exact = unit_rows(vectors.astype(np.float16)).astype(np.float64)
    for row in range(len(label)):
        rest = (label == label[row]) & (np.arange(len(label)) != row)
        w = weight[rest]
        if not w.any():
            assert (cosine[row], others[row]) == (0, 0)
            continue
        mean = w @ exact[rest]
        assert cosine[row] == pytest.approx(exact[row] @ mean / np.linalg.norm(mean), abs=2e-5)
        assert others[row] == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-5)


class Fragile:
    """Vectors that must not be read by two threads at once."""

    def __init__(self, vectors: npt.NDArray[np.floating]) -> None:
        self.vectors, self.shape, self.reads = vectors, vectors.shape, 0
        self._busy = threading.Lock()

    def __getitem__(self, rows: Int64) -> npt.NDArray[np.floating]:
        assert self._busy.acquire(blocking=False), "two threads read"
        try:
            self.reads += 1
            return self.vectors[rows]
        finally:
            self._busy.release()


@pytest.mark.parametrize("threads", [1, 4])
def test_blocks_and_parts_are_looked_at_in_order(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(centres, "BLOCK_ROWS", 16)
    monkeypatch.setattr(centres, "PART_ROWS", 24)
    vectors, label = people([3, 9, 40, 1, 22, 5, 2, 30] * 5)
    plain = labelled(vectors, label, 40)
    fragile = Fragile(np.asarray(plain.vectors_ND))
    faces = replace(plain, vectors_ND=OneReader(fragile), threads=threads)
    some = np.arange(0, len(label), 3)
    for rows in (None, some):
        found = faces.each_block(lambda r, v: (r, v), rows)
        for (asked, (seen, block)), (at, unit) in zip(found, plain.blocks(rows), strict=True):
            assert (asked == at).all() and (seen == at).all() and (block == unit).all()
    parts = faces.each_part(lambda part: (part.label_N, part.sums(np.ones(len(part.label_N)))))
    for (rows_of, (labels, sums)), (_, span, part) in zip(parts, plain.parts(), strict=True):
        assert rows_of == span and (labels == part.label_N).all()
        assert (sums == part.sums(np.ones(len(part.label_N)))).all()
    assert face_impostors(faces) == face_impostors(plain)


def test_faces_in_memory_are_read_once() -> None:
    vectors, label = people([3, 9, 40])
    plain = labelled(vectors, label, 3)
    fragile = Fragile(np.asarray(plain.vectors_ND))
    faces = replace(plain, vectors_ND=fragile).in_memory()
    reads = fragile.reads
    assert faces.in_memory() is faces

    def rows_of(some: LabelledFaces) -> Float32:
        return np.concatenate([block for _, block in some.blocks()])

    assert (rows_of(faces) == rows_of(plain)).all() and fragile.reads == reads
    assert faces.vectors_ND[np.array([0])].dtype == np.float16


def test_impostors_are_measured_between_labels_only() -> None:
    vectors, label = people([8] * 60, dim=64)
    cosine = vectors @ vectors.T
    foreign = cosine[label[:, None] != label[None, :]]
    measured = face_impostors(labelled(vectors, label, 60))
    assert measured.mean == pytest.approx(np.median(foreign), abs=0.01)
    assert measured.std == pytest.approx(foreign.std(), rel=0.05)
    assert dict(measured.quantiles)[0.999] < 0.5  # a face of the same person is at 0.56


def test_a_few_labels_lean_on_what_is_known() -> None:
    vectors, person = people([40], dim=512)
    halves = np.repeat([0, 1], 20)  # one person under two labels: genuine cosines only
    measured = face_impostors(labelled(vectors, halves, 2))
    assert abs(measured.mean) < 0.06 and measured.std == pytest.approx(0.067, abs=0.01)
    alone = face_impostors(labelled(vectors, person, 1))
    assert alone.quantiles == () and alone.mean == pytest.approx(0.02)


def test_no_faces_at_all() -> None:
    faces = LabelledFaces(
        label_N=np.empty(0, np.int64),
        vector_N=np.empty(0, np.int64),
        vectors_ND=np.empty((0, 8), np.float16),
        labels=0,
    )
    assert list(faces.parts()) == [] and list(faces.blocks()) == []
    assert face_impostors(faces).quantiles == ()
