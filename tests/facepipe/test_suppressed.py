"""The list of deleted faces: nothing of them in it, and none of them past it."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from facepipe import ids
from facepipe.absent import Traces
from facepipe.errors import CorruptData
from facepipe.index_manifest import IndexFile
from facepipe.suppressed import NOBODY, Suppressed, decode_suppressed

PHOTOS = [ids.photo_id(bytes([n])) for n in range(40)]
FACES = [ids.face_id(photo, ordinal) for photo in PHOTOS for ordinal in range(3)]


def record(data: bytes) -> IndexFile:
    return IndexFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_faces_stay_out_by_their_id_or_their_photo() -> None:
    listed = NOBODY.joined(FACES[:2]).joined(FACES[60:62], [PHOTOS[30]])
    assert len(listed) == 5
    kept_out = {*FACES[:2], *FACES[60:62], *FACES[90:93]}
    assert listed.mask(pa.array(FACES)).tolist() == [face in kept_out for face in FACES]
    assert listed.mask(pa.chunked_array([FACES[:1], FACES[5:6]])).tolist() == [True, False]
    assert not NOBODY.mask(pa.array(FACES)).any()
    assert not NOBODY and listed


def test_a_restored_face_comes_back_and_others_of_its_photo_do_not() -> None:
    photo = FACES[90:93]
    listed = NOBODY.joined([*FACES[:2], *photo], [PHOTOS[30]]).without(photo[:1])
    assert listed.mask(pa.array(photo)).tolist() == [False, True, True]
    assert listed.mask(pa.array(FACES[:2])).all()
    all_back = listed.without([*FACES[:2], *photo])
    assert not all_back.mask(pa.array(FACES)).any()
    new = ids.face_id(PHOTOS[30], 7)  # as another detector finds it
    assert all_back.mask(pa.array([new])).all()
    assert all_back.joined(photo[:1]).mask(pa.array(photo)).tolist() == [True, False, False]
    data = all_back.encode()
    assert decode_suppressed(data, record(data), "here") == all_back
    own = b"facepipe-restore"
    assert hashlib.blake2b(photo[0].encode(), digest_size=16, person=own).digest() in data
    assert NOBODY.joined(FACES[:2]).without(FACES[:2]) == NOBODY
    assert listed.without(["nobody"]) == listed


def test_the_file_holds_digests_alone_and_is_the_same_in_any_order() -> None:
    listed = NOBODY.joined(FACES, PHOTOS)
    data = listed.encode()
    assert data == NOBODY.joined(FACES[::-1], PHOTOS[::-1]).encode()
    assert len(data) == 16 * (len(FACES) + len(PHOTOS))
    own = b"facepipe-deleted"
    digest = hashlib.blake2b(FACES[7].encode(), digest_size=16, person=own).digest()
    assert digest in data
    stored = Traces([*FACES, *PHOTOS])
    assert stored.count([data]) == 0
    assert not any(bytes.fromhex(photo) in data for photo in PHOTOS)
    assert decode_suppressed(data, record(data), "here") == listed
    assert decode_suppressed(b"", record(b""), "here") == NOBODY


LIST = NOBODY.joined(FACES).encode()


@pytest.mark.parametrize(
    "other",
    [
        LIST[:-1],
        LIST + b"x",
        LIST[16:32] + LIST[:16] + LIST[32:],
        LIST[:16] + LIST,
    ],
)
def test_a_damaged_file_is_refused(other: bytes) -> None:
    with pytest.raises(CorruptData, match=r"here does not match its checksum.*--restore-all"):
        decode_suppressed(other, record(LIST), "here")
    with pytest.raises(CorruptData, match="here holds no rising digests"):
        decode_suppressed(other, record(other), "here")  # of a manifest that vouches for it, too


def test_a_list_is_no_secret_of_another_purpose() -> None:
    """Only this purpose gives these digests, so that no other list of ids matches."""
    plain = hashlib.blake2b(FACES[0].encode(), digest_size=16).digest()
    assert plain not in Suppressed().joined(FACES).digests
