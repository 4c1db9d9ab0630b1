"""Every table of a dataset: Arrow schemas with their version, and the codes in them.

Legend: coordinates are in pixels of the upright, full-size photo, origin at its top left
corner, x to the right. A row is marked, never dropped: the counts of each step add up to
those of the step before.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

SCHEMA_VERSION = 1
LANDMARKS = 5  # left eye, right eye, nose, left mouth corner, right mouth corner (viewer's left)
PHASH_BYTES = 8
CROP_HASH_BYTES = 64
CROP_GREY_PX = 48


class PhotoStatus(StrEnum):
    """What became of one occurrence of a photo; ``ok`` and ``salvaged`` have pixels."""

    OK = "ok"
    SALVAGED = "salvaged"  # truncated or damaged: decoded as far as it goes
    TRUNCATED = "truncated"  # the same, refused by decode.truncated = refuse
    CORRUPT = "corrupt"  # an image by its first bytes, but no decoder can read it
    NOT_AN_IMAGE = "not_an_image"  # no image format that facepipe reads
    TOO_LARGE = "too_large"  # more pixels or bytes than the settings allow
    UNREADABLE = "unreadable"  # the file could not be read (permission, I/O error, gone)
    REFUSED = "refused"  # in a container, and no photo to be read: a link, encrypted, damaged
    CRASHED = "crashed"  # decoding it killed or hung the worker, also when tried alone


class FaceStatus(StrEnum):
    """Whether a face is fit for use; the first code that applies, in this order."""

    OK = "ok"
    BYSTANDER = "bystander"  # not the labelled person of its photo
    LOW_SCORE = "low_score"
    SMALL = "small"
    CUT_OFF = "cut_off"  # too much of the box lies outside the frame
    PROFILE = "profile"  # turned, tilted or nodding too far
    BLURRED = "blurred"
    DARK = "dark"
    BRIGHT = "bright"


class EmbeddingStatus(StrEnum):
    """Whether a face has a vector."""

    OK = "ok"
    BAD_CROP = "bad_crop"  # the stored crop does not decode
    NON_FINITE = "non_finite"  # the model answered with NaN, infinity or a zero vector


class Decision(StrEnum):
    """What is to be done with a face."""

    KEEP = "keep"
    DROP = "drop"
    RELABEL = "relabel"
    DUPLICATE = "duplicate"
    MERGE = "merge"


class Reason(StrEnum):
    """Why a decision was taken."""

    UNLABELLED = "unlabelled"  # nothing to clean against
    SAME_PERSON = "same_person"  # agrees with its label's dominant identity
    SINGLE = "single"  # the only usable face of its label
    NO_DOMINANT = "no_dominant"  # its label has no dominant identity
    OUTLIER = "outlier"  # does not agree with its label's dominant identity
    OTHER_IDENTITY = "other_identity"  # agrees with another label, by a clear margin
    MERGED = "merged"  # right for its label, and that is the person of another label too
    CLUSTERED = "clustered"  # unlabelled, and found together with other faces of its person
    SAID = "said"  # a person said so: see facepipe.constraints
    SAME_BYTES = "same_bytes"
    SAME_PICTURE = "same_picture"
    SAME_CROP = "same_crop"  # the same picture of the face, in photos that differ around it
    NO_VECTOR = "no_vector"
    QUALITY = "quality"  # status of the face is not ok; evidence names the status


class PairVerdict(StrEnum):
    """What became of two labels that look like one person."""

    MERGED = "merged"
    AMBIGUOUS = "ambiguous"  # left apart, for a person to look at
    REFUSED = "refused"  # alike, but a person or a photo with both says that they are two


class OverlapLevel(StrEnum):
    """How a face was found in the probes, the strongest first."""

    SAME_BYTES = "same_bytes"
    SAME_PICTURE = "same_picture"
    SAME_PERSON = "same_person"
    SAME_IDENTITY = "same_identity"


def _table(name: str, fields: list[pa.Field]) -> pa.Schema:
    metadata = {"facepipe.table": name, "facepipe.schema_version": str(SCHEMA_VERSION)}
    return pa.schema(fields, metadata=metadata)


_TEXT, _FLOAT = pa.string(), pa.float32()

PHOTOS = _table(
    "photos",
    [
        pa.field("photo_id", _TEXT),  # null where the bytes were not read or are no image
        pa.field("uri", _TEXT, nullable=False),
        pa.field("member", _TEXT),  # name inside an archive
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("format", _TEXT),
        pa.field("width_px", pa.int32()),  # upright, full size
        pa.field("height_px", pa.int32()),
        pa.field("orientation", pa.int8()),  # EXIF 1..8 as found
        pa.field("source_label", _TEXT),
        pa.field("phash", pa.binary(PHASH_BYTES)),  # facepipe.picture_hash
        pa.field("faces", pa.int32(), nullable=False),
        pa.field("status", _TEXT, nullable=False),
        pa.field("error", _TEXT, nullable=False),
    ],
)

FACES = _table(
    "faces",
    [
        pa.field("face_id", _TEXT, nullable=False),
        pa.field("photo_id", _TEXT, nullable=False),
        pa.field("uri", _TEXT, nullable=False),
        pa.field("member", _TEXT),
        pa.field("box_xyxy_px", pa.list_(_FLOAT, 4), nullable=False),
        pa.field("landmarks_xy_px", pa.list_(_FLOAT, 2 * LANDMARKS), nullable=False),
        pa.field("det_score", _FLOAT, nullable=False),
        pa.field("rotation_deg", pa.int16(), nullable=False),  # the photo was turned by this
        pa.field("padded", pa.bool_(), nullable=False),  # found by the padded second pass
        pa.field("crop", pa.binary(), nullable=False),  # encoded image, 112 x 112
        pa.field("crop_hash", pa.binary(CROP_HASH_BYTES)),  # facepipe.crop_hash; null: no crop
        pa.field("crop_grey", pa.binary(CROP_GREY_PX**2)),  # 48 x 48 grey levels of the crop
        pa.field("eye_distance_px", _FLOAT, nullable=False),
        pa.field("sharpness", _FLOAT, nullable=False),
        pa.field("yaw_deg", _FLOAT, nullable=False),
        pa.field("pitch_deg", _FLOAT, nullable=False),
        pa.field("roll_deg", _FLOAT, nullable=False),
        pa.field("brightness", _FLOAT, nullable=False),
        pa.field("inside_frame", _FLOAT, nullable=False),  # share of the box in the photo
        pa.field("source_label", _TEXT),
        pa.field("status", _TEXT, nullable=False),
    ],
)

MEMBERS = _table(
    "members",
    [
        pa.field("uri", _TEXT, nullable=False),  # of the container, or of a list's photo
        pa.field("member", _TEXT),  # name in the container; null in a list
        pa.field("offset", pa.int64(), nullable=False),  # where its reader finds it
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("source_label", _TEXT),
        pa.field("problem", _TEXT),  # why it cannot be read as a photo
    ],
)

DECISIONS = _table(
    "decisions",
    [
        pa.field("face_id", _TEXT, nullable=False),
        pa.field("uri", _TEXT, nullable=False),
        pa.field("member", _TEXT),
        pa.field("source_label", _TEXT),
        pa.field("identity_id", _TEXT),  # null where no identity is known
        pa.field("decision", _TEXT, nullable=False),
        pa.field("reason", _TEXT, nullable=False),
        pa.field("confidence", _FLOAT, nullable=False),  # probability that this is right
        pa.field("evidence", _TEXT),  # the face, label or status that decided
        pa.field("similarity", _FLOAT),  # cosine to the evidence
        pa.field("weight", _FLOAT, nullable=False),  # for training; 0 where not kept
    ],
)

DUPLICATES = _table("duplicates", list(DECISIONS))

# Pairs of labels that were looked at as one person, clear or not; see facepipe.merges.
LABEL_PAIRS = _table(
    "label_pairs",
    [
        pa.field("label_a", _TEXT, nullable=False),
        pa.field("label_b", _TEXT, nullable=False),
        pa.field("verdict", _TEXT, nullable=False),  # schema.PairVerdict
        pa.field("confidence", _FLOAT, nullable=False),  # probability that they are one person
        pa.field("similarity", _FLOAT, nullable=False),  # cosine of the two centres
        pa.field("support", _FLOAT),  # share of face pairs that match by themselves
        pa.field("rank", pa.int32()),  # the worse of the two mutual ranks, from 1
    ],
)

# Faces without a label, and who is the same person; see facepipe.cluster.
CLUSTERS = _table(
    "clusters",
    [
        pa.field("face_id", _TEXT, nullable=False),
        pa.field("uri", _TEXT, nullable=False),
        pa.field("member", _TEXT),
        pa.field("cluster", pa.int64(), nullable=False),  # -1: nobody else's face, alone
        pa.field("confidence", _FLOAT, nullable=False),  # probability that it belongs there
        pa.field("evidence", _TEXT),  # the cluster's most typical other face
        pa.field("similarity", _FLOAT),  # cosine to the mean of the cluster's other faces
    ],
)

CLUSTER_PAIRS = _table(
    "cluster_pairs",
    [
        pa.field("cluster_a", pa.int64(), nullable=False),
        pa.field("cluster_b", pa.int64(), nullable=False),
        pa.field("verdict", _TEXT, nullable=False),  # schema.PairVerdict
        pa.field("confidence", _FLOAT, nullable=False),
        pa.field("similarity", _FLOAT, nullable=False),
    ],
)

# A row for every face and set of probes that it was found in.
OVERLAPS = _table(
    "overlaps",
    [
        pa.field("face_id", _TEXT, nullable=False),
        pa.field("uri", _TEXT, nullable=False),
        pa.field("member", _TEXT),
        pa.field("identity_id", _TEXT),
        pa.field("probe", _TEXT, nullable=False),  # name of the set
        pa.field("probe_label", _TEXT),  # who it is there
        pa.field("probe_face_id", _TEXT),  # null where a centre, the photo or others decided
        pa.field("probe_uri", _TEXT),
        pa.field("probe_member", _TEXT),
        pa.field("level", _TEXT, nullable=False),  # OverlapLevel
        pa.field("similarity", _FLOAT),  # cosine to the face or centre in the probes
        pa.field("confidence", _FLOAT, nullable=False),  # probability that this is right
    ],
)

# A row for every identity and set with a face in the table above.
OVERLAP_IDENTITIES = _table(
    "overlap_identities",
    [
        pa.field("identity_id", _TEXT, nullable=False),
        pa.field("probe", _TEXT, nullable=False),
        pa.field("probe_label", _TEXT),  # whom most of its faces were found to be
        pa.field("overlaps", pa.bool_(), nullable=False),  # half its faces or more were found
        pa.field("confidence", _FLOAT, nullable=False),  # of those faces, in the mean
        pa.field("faces", pa.int64(), nullable=False),
        *(pa.field(level.value, pa.int64(), nullable=False) for level in OverlapLevel),
    ],
)


def embeddings(dim: int, model_id: str) -> pa.Schema:
    """Return the schema of an embeddings table: unit float16 vectors of one model.

    ``vector`` and ``norm`` are 0 where ``status`` is not ``ok``.
    """
    fields = [
        pa.field("face_id", _TEXT, nullable=False),
        pa.field("vector", pa.list_(pa.float16(), dim), nullable=False),
        pa.field("norm", _FLOAT, nullable=False),  # length before normalising
        pa.field("status", _TEXT, nullable=False),
    ]
    return _table("embeddings", fields).with_metadata(
        {
            "facepipe.table": "embeddings",
            "facepipe.schema_version": str(SCHEMA_VERSION),
            "facepipe.model_id": model_id,
        }
    )
