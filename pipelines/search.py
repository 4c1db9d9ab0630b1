"""Searches a gallery with photos: every good face of each, and who it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.align import aligned_crop
from facepipe.builtin_pack import default_note
from facepipe.config import Settings
from facepipe.decode import Decoded, decode
from facepipe.detect import Detector, Faces
from facepipe.embed import Recogniser, model_id, normalise
from facepipe.errors import ModelMismatch
from facepipe.index import NO_HIT, Gallery
from facepipe.index_filter import Filter
from facepipe.packs import Pack
from facepipe.quality import labelled_face, mark, measure
from facepipe.schema import FaceStatus, PhotoStatus
from facepipe.source_listing import list_sources
from facepipe.sources import Entry, SourceSettings, read_bytes
from pipelines.progress import printable

Pixels = NDArray[np.uint8]
Hit = dict[str, Any]

BATCH_PHOTOS = 64  # whose faces are one search


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found on one photo, before the search."""

    uri: str
    decoded: Decoded
    found: Faces | None  # None where there are no pixels
    statuses: list[FaceStatus]
    searched: list[int]  # faces that have a vector
    vectors_QD: NDArray[np.float16]


def search_photos(
    gallery: Gallery,
    pack: Pack,
    settings: Settings,
    photos: Sequence[str],
    k: int,
    *,
    where: Filter | None = None,
    nprobe: int | None = None,
) -> list[dict[str, Any]]:
    """Return one result per photo (files, or folders of them), in the order they are given.

    Every face that passes quality is searched; where none does, the large, central one, under
    its mark. A result holds the photo's status and its faces by falling detection score; a
    face its box, its hits (rank, score, above_threshold, face_id, identity_id, uri, member,
    box) and a verdict: the best hit's identity where that is above the threshold. The
    threshold's false positive rate is per face searched. where, nprobe: as in Gallery.search.

    Raises ModelMismatch where the gallery was made with another recogniser or flip test,
    SourceNotFound for a photo that is not there, UsageError for k < 1 and for a filter on a
    column that the gallery does not have.
    """
    _same_model(gallery, pack, settings)
    entries = [
        e for photo in photos for e in list_sources([photo], SourceSettings(containers="leave"))
    ]
    detector = Detector(pack, settings.detect, settings.models)
    recogniser = Recogniser(pack, settings.embed, settings.models)
    results = []
    for batch in _batches(entries):
        looked = [_look(entry, detector, recogniser, settings) for entry in batch]
        vectors = [photo.vectors_QD for photo in looked if photo.searched]
        queries = np.concatenate(vectors) if vectors else np.zeros((0, gallery.dim), np.float16)
        hits = iter(_hits(gallery, *gallery.search(queries, k, where=where, nprobe=nprobe)))
        results += [_result(photo, hits, gallery) for photo in looked]
    return results


def _batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), BATCH_PHOTOS):
        yield entries[start : start + BATCH_PHOTOS]


def _same_model(gallery: Gallery, pack: Pack, settings: Settings) -> None:
    asked = model_id(pack, settings.embed)
    if asked != gallery.model_id:
        raise ModelMismatch(
            f"{gallery.uri} was made with model {gallery.model_id[:12]} "
            f"(embed.flip={gallery.record.embedding.flip}), but {pack.need_recogniser().file} of "
            f"{pack.folder} with embed.flip={settings.embed.flip} is {asked[:12]}: give the "
            "--models and embed.flip the dataset was embedded with, or embed it with this model "
            f"and build the index again{default_note(pack.folder)}"
        )


def _decoded(entry: Entry, settings: Settings) -> Decoded:
    try:
        data = read_bytes(entry, settings.decode.max_file_bytes)
    except OSError as error:
        return Decoded(PhotoStatus.UNREADABLE, error.strerror or str(error))
    return decode(data, settings.decode)


def _look(entry: Entry, detector: Detector, recogniser: Recogniser, settings: Settings) -> Looked:
    """Find and embed the faces of one photo."""
    decoded = _decoded(entry, settings)
    pixels_HWC = decoded.pixels_HWC
    if pixels_HWC is None:
        return Looked(entry.uri, decoded, None, [], [], np.zeros((0, 0), np.float16))
    found = detector.find([pixels_HWC])[0]
    crops = [aligned_crop(pixels_HWC, points) for points in found.landmarks_N52]
    statuses = _statuses(found, crops, pixels_HWC, settings)
    height, width = pixels_HWC.shape[:2]
    wanted = [i for i, status in enumerate(statuses) if status is FaceStatus.OK]
    if not wanted and len(found):
        wanted = [labelled_face(found.boxes_N4, width, height) or 0]
    unit, _, sound = normalise(recogniser.embed([crops[i] for i in wanted]))
    searched = [i for i, good in zip(wanted, sound, strict=True) if good]
    return Looked(entry.uri, decoded, found, statuses, searched, unit[sound])


def _statuses(
    found: Faces, crops: Sequence[Pixels], pixels_HWC: Pixels, settings: Settings
) -> list[FaceStatus]:
    height, width = pixels_HWC.shape[:2]
    return [
        mark(
            measure(crop, found.landmarks_N52[i], found.boxes_N4[i], width, height),
            float(found.scores_N[i]),
            settings.quality,
        )
        for i, crop in enumerate(crops)
    ]


def _hits(
    gallery: Gallery, scores_QK: NDArray[np.float32], face_ids_QK: NDArray[np.object_]
) -> list[list[Hit]]:
    """Return the hits of each query with their rows, which are read together."""
    there_QK = face_ids_QK != NO_HIT
    rows = iter(gallery.rows([str(face) for face in face_ids_QK[there_QK]]).to_pylist())
    return [
        [
            {
                "rank": rank,
                "score": round(float(score), 6),
                "above_threshold": bool(score >= gallery.threshold),
                "face_id": row["face_id"],
                "identity_id": row["identity_id"],
                "uri": row["uri"],
                "member": row["member"],
                "box_xyxy_px": [round(v, 1) for v in row["box_xyxy_px"]],
            }
            for rank, (score, row) in enumerate(zip(scores_K, rows_K, strict=True), start=1)
        ]
        for scores_K, rows_K in (
            (scores[there], list(islice(rows, int(there.sum()))))
            for scores, there in zip(scores_QK, there_QK, strict=True)
        )
    ]


def _result(photo: Looked, hits: Iterator[list[Hit]], gallery: Gallery) -> dict[str, Any]:
    """Return what is said of one photo; its faces take the next hits."""
    found = {face: next(hits) for face in photo.searched}
    return {
        "photo": photo.uri,
        "status": str(photo.decoded.status),
        "error": photo.decoded.error,
        "threshold": gallery.threshold,
        "fpir": gallery.record.threshold.fpir,
        "faces": [
            {
                "box_xyxy_px": [round(float(v), 1) for v in photo.found.boxes_N4[i]],
                "det_score": round(float(photo.found.scores_N[i]), 4),
                "status": str(status),
                "searched": i in found,
                **_verdict(found.get(i), gallery.threshold),
                "hits": found.get(i, []),
            }
            for i, status in enumerate(photo.statuses)
            if photo.found is not None
        ],
    }


def _verdict(hits: list[Hit] | None, threshold: float) -> dict[str, Any]:
    """Say who a face is: the identity of its best hit, where that is above the threshold."""
    best = hits[0] if hits else None
    above = best is not None and best["above_threshold"]
    if hits is None:
        text = "not searched"
    elif best is None or not above:
        text = f"nobody above the threshold of {threshold:.3f}"
    else:
        text = best["identity_id"] or "the person of rank 1, who has no name"
    return {
        "above_threshold": above,
        "identity_id": best["identity_id"] if best is not None and above else None,
        "verdict": text,
    }


# -- for people --------------------------------------------------------------------------


def format_results(results: Sequence[dict[str, Any]]) -> str:
    """Return search results as plain text: a block a photo, a line a hit."""
    blocks = [_block(result) for result in results]
    if any(face["hits"] for result in results for face in result["faces"]):
        first = results[0]
        blocks.append(
            f"* at or above the threshold of {first['threshold']:.3f}, which the search with a "
            f"stranger's face reaches in {100 * first['fpir']:g} of 100 cases"
        )
    return "\n\n".join(blocks)


def _block(result: dict[str, Any]) -> str:
    faces = result["faces"]
    count = {0: "no face", 1: "1 face"}.get(len(faces), f"{len(faces)} faces")
    if result["status"] not in {str(PhotoStatus.OK), str(PhotoStatus.SALVAGED)}:
        count = f"{result['status']}: {result['error']}"
    lines = [f"{printable(result['photo'])}: {count}"]
    for number, face in enumerate(faces, start=1):
        marked = "" if face["status"] == str(FaceStatus.OK) else f" [{face['status']}]"
        lines.append(f"  face {number} at {_box(face)} px{marked}: {printable(face['verdict'])}")
        rows = [("", "rank", "score", "who", "photo", "box, px")] if face["hits"] else []
        rows += [
            (
                "*" if hit["above_threshold"] else "",
                str(hit["rank"]),
                f"{hit['score']:.3f}",
                printable(hit["identity_id"] or "-"),
                printable(hit["uri"] + (f" : {hit['member']}" if hit["member"] else "")),
                _box(hit),
            )
            for hit in face["hits"]
        ]
        lines += _columns(rows)
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "    " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _box(item: dict[str, Any]) -> str:
    return ",".join(f"{v:.0f}" for v in item["box_xyxy_px"])
