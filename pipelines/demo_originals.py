"""The real photos of the demo: sample pictures that come with packages facepipe installs.

They are found on the disk, none of the packages is imported, and none is copied into facepipe.
Where the faces are was measured once; a file of other bytes is left out, and said so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facepipe.decode import DecodeSettings, decode

Landmarks = tuple[
    tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]
]
Box = tuple[int, int, int, int]

MARGIN = 1.0  # around a face that is cut out of a group, in its own width and height


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitter:
    """A face of an original: who the demo calls so, its box x1 y1 x2 y2, its landmarks."""

    name: str
    box_px: Box
    landmarks_px: Landmarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A file of a package that the demo uses: what it is, its digest, who is on it."""

    package: str
    path: str  # below the package
    sha256: str  # its start
    what: str
    sitters: tuple[Sitter, ...] = ()


# Boxes and landmarks in pixels, rounded: found by YuNet on these files (project).
GROUP = Known(
    package="insightface",
    path="data/images/t1.jpg",
    sha256="47f682e945b659f9",
    what="six people at a table",
    sitters=(
        Sitter(
            name="person-1",
            box_px=(55, 267, 159, 393),
            landmarks_px=((85, 320), (130, 306), (118, 333), (103, 361), (142, 349)),
        ),
        Sitter(
            name="person-2",
            box_px=(271, 146, 368, 271),
            landmarks_px=((288, 206), (328, 196), (305, 226), (303, 248), (335, 239)),
        ),
        Sitter(
            name="person-3",
            box_px=(464, 270, 572, 413),
            landmarks_px=((491, 323), (541, 332), (508, 361), (484, 373), (528, 381)),
        ),
        Sitter(
            name="person-4",
            box_px=(746, 344, 848, 477),
            landmarks_px=((763, 400), (806, 400), (775, 427), (768, 444), (803, 444)),
        ),
        Sitter(
            name="person-5",
            box_px=(901, 55, 1005, 204),
            landmarks_px=((915, 121), (942, 112), (919, 152), (932, 172), (955, 163)),
        ),
        Sitter(
            name="person-6",
            box_px=(1131, 271, 1227, 400),
            landmarks_px=((1156, 321), (1199, 323), (1172, 346), (1156, 365), (1193, 366)),
        ),
    ),
)
ASTRONAUT = Known(
    package="skimage",
    path="data/astronaut.png",
    sha256="88431cd9653ccd53",
    what="an astronaut",
    sitters=(
        Sitter(
            name="astronaut",
            box_px=(181, 54, 274, 178),
            landmarks_px=((205, 97), (248, 103), (222, 127), (201, 141), (239, 146)),
        ),
    ),
)
STRANGER = Known(
    package="insightface",
    path="data/images/Tom_Hanks_54745.png",
    sha256="8545da294e8c7c79",
    what="a head that fills the picture",
    sitters=(
        Sitter(
            name="stranger",
            box_px=(16, 9, 90, 111),
            landmarks_px=((36, 52), (76, 53), (58, 78), (37, 93), (72, 94)),
        ),
    ),
)
PROFILE = Known(
    package="skimage",
    path="data/camera.png",
    sha256="b0793d2adda0fa6a",
    what="a man behind a camera, seen from the side",
)
FACELESS = (
    Known(
        package="insightface",
        path="data/images/mask_black.jpg",
        sha256="d81c40c77a0e3871",
        what="a black face mask, without a face",
    ),
    Known(
        package="insightface",
        path="data/images/mask_blue.jpg",
        sha256="a55ec2b181de4143",
        what="a blue face mask, without a face",
    ),
    Known(
        package="insightface",
        path="data/images/mask_green.jpg",
        sha256="79526b5a31ef75cb",
        what="a green face mask, without a face",
    ),
    Known(
        package="insightface",
        path="data/images/mask_white.jpg",
        sha256="3adee6ba6680d261",
        what="a white face mask, without a face",
    ),
    Known(
        package="skimage", path="data/coffee.png", sha256="cc02f8ca188b167c", what="a cup of coffee"
    ),
    Known(package="skimage", path="data/rocket.jpg", sha256="c2dd0de7c538df8d", what="a rocket"),
    Known(package="skimage", path="data/chelsea.png", sha256="596aa1e7cb875eb7", what="a cat"),
)
ALL = (GROUP, ASTRONAUT, STRANGER, PROFILE, *FACELESS)
DISTRIBUTIONS = {"skimage": "scikit-image"}  # what pip calls a package, where it differs
BROUGHT_BY = {"insightface": "a dependency of facepipe", "skimage": "a dependency of insightface"}


class Original:
    """A known file that is there, as it was found to be: its bytes, and its pixels once asked."""

    def __init__(self, known: Known, path: Path, data: bytes) -> None:
        """Hold what was read."""
        self.known, self.path, self.data = known, path, data

    @property
    def name(self) -> str:
        """Return where it comes from, as the page says it."""
        return f"{_distribution(self.known)}: {self.known.path}"

    @property
    def suffix(self) -> str:
        """Return the ending of its file name."""
        return self.path.suffix

    @cached_property
    def pixels_HWC(self) -> NDArray[np.uint8]:
        """Return its BGR pixels."""
        pixels = decode(self.data, DecodeSettings()).pixels_HWC
        assert pixels is not None  # its digest is known
        return pixels


def find_originals(
    wanted: Sequence[Known] = ALL,
) -> tuple[dict[str, Original], list[str]]:
    """Return the known files that are here by their path, and what is missing, in words."""
    found: dict[str, Original] = {}
    missing: list[str] = []
    for known in wanted:
        path, problem = _looked_up(known)
        if path is None:
            missing.append(problem)
            continue
        data = path.read_bytes()
        if not hashlib.sha256(data).hexdigest().startswith(known.sha256):
            missing.append(
                f"{known.path} of {_distribution(known)} is not the picture this demo "
                "knows (another version of the package): left out"
            )
            continue
        found[known.path] = Original(known, path, data)
    return found, list(dict.fromkeys(missing))


def _looked_up(known: Known) -> tuple[Path | None, str]:
    """Return a known file's path, or what is wrong."""
    name = _distribution(known)
    spec = find_spec(known.package)  # finds the folder without the seconds that importing takes
    if spec is None or spec.origin is None:
        brought = BROUGHT_BY.get(known.package, "no dependency")
        return None, (
            f"{name} ({brought}) is not installed, so that its sample pictures are left out: "
            f"pip install {name}"
        )
    path = Path(spec.origin).parent / known.path
    if not path.is_file():
        return None, f"{known.path} is not in the installed {name}: left out"
    return path, ""


def _distribution(known: Known) -> str:
    return DISTRIBUTIONS.get(known.package, known.package)


def cut_out(sitter: Sitter, width_px: int, height_px: int) -> Box:
    """Return the part of a group photo with one sitter in its middle, and what is around."""
    x1, y1, x2, y2 = sitter.box_px
    across, down = int(MARGIN * (x2 - x1)), int(MARGIN * (y2 - y1))
    return (
        max(0, x1 - across),
        max(0, y1 - down),
        min(width_px, x2 + across),
        min(height_px, y2 + down),
    )
