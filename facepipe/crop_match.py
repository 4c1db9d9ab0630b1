"""Whether two crops are one picture: laid over one another, and what then is left.

A copy of a picture differs from it by where its landmarks were found, by size, compression
and colour. Another frame of the same moment differs in that something has moved within the
face, against the head or behind it. So the better crop is moved, lit and blurred to fit the
worse one, and what this cannot explain is measured as a motion, in pixels of the crop.

Legend: P pairs of crops, G side of the small grey picture, C columns of the model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facepipe.align import CROP_PX
from facepipe.schema import CROP_GREY_PX

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

PAIR_BLOCK = 48  # pairs at a time: 5 MB, which a core's own cache nearly holds
ROUNDS = 4  # of Gauss-Newton; two more change nothing
FIRST_BLUR = 0.6  # cells: the pictures are sampled at places between cells
NEAR_BLUR = 2.0  # cells, 5 px of the crop: what moves together
STIFFNESS = 0.1  # of all gradients' mean energy, added where there is little to see motion by
STRONGEST_CELLS = 115  # 5 % of the crop: lids and mouth corners are small
OUTSIDE_CELLS = 2  # left out around 0: the photo ended there
CLIPPED_CELLS = 1  # and around what has lost its detail in one of the two, as other levels do
BLACK, WHITE = 4, 247  # grey levels
EDGE_CELLS = 2
MAX_STEP, MAX_MOTION = 1.5, 6.0  # cells: a round's, and all that landmarks may be off by
DAMPING = 1e-4
LEAST_GAIN = 0.3  # a fainter copy than that of the other does not steer the motion
LEAST_SHARE = 0.3  # of the crop that both have
LEAST_CONTRAST = 4.0  # grey levels, standard deviation; less is a flat picture

# Logistic regression on 2,798 pairs of copies and 5,247 pairs with a burst frame, at equal odds:
# of the log of the unexplained motion in px, and of the log of the lesser distance between the
# eyes in px, since small copies fit less well. benchmarks/bench_duplicates.py --fit does it
# (seed 1, 150 people), and says how these stand on another set: a little too cautious.
ODDS, ODDS_MOTION, ODDS_EYES = -1.60, -8.79, -1.27


def match_probability(motion_px_P: Float, eye_distance_px_P: Float) -> Float:
    """Return how likely pairs are copies of one picture and not two frames of a burst; (P,).

    motion_px_P: of ``unexplained_motion``; eye_distance_px_P: of the worse photo of each.
    0 where the motion is infinite.
    """
    odds_P = ODDS + ODDS_MOTION * np.log(np.maximum(motion_px_P, 1e-6))
    odds_P += ODDS_EYES * np.log(np.maximum(eye_distance_px_P, 1.0))
    chance_P = 1.0 / (1.0 + np.exp(-np.clip(odds_P, -700, 700)))
    return np.where(np.isfinite(motion_px_P), chance_P, 0.0)


def unexplained_motion(worse_PGG: UInt8, better_PGG: UInt8) -> Float:
    """Return for pairs of crops the motion between them that a copy cannot have, in crop px.

    worse_PGG, better_PGG: facepipe.crop_hash.crop_grey, (P, 48, 48), 0 outside the photo.
    Infinite where they share too little or are flat.

    Gauss-Newton on an affine motion of the better (Lucas and Kanade 1981; affine, since
    pictures get stretched), together with gain, offset, a square for gamma and the Laplacian
    for blur or sharpening. What is left is then asked where, and by how much, things would
    have to move to cause it.
    """
    motion_P = np.full(len(worse_PGG), np.inf)
    for start in range(0, len(worse_PGG), PAIR_BLOCK):
        block = slice(start, start + PAIR_BLOCK)
        motion_P[block] = _motion(worse_PGG[block], better_PGG[block])
    return motion_P


def _motion(worse_PGG: UInt8, better_PGG: UInt8) -> Float:
    inside, other_inside = _inside(worse_PGG) * _EDGE, _inside(better_PGG)
    shared = inside * other_inside
    worse, contrast_P = _levelled(worse_PGG, shared)
    better, other_contrast_P = _levelled(better_PGG, shared)
    affine_P6 = np.zeros((len(worse), 6))
    for _ in range(ROUNDS):
        moved, seen = _warped(better, other_inside, affine_P6)
        columns = np.stack([*_lights(moved), *_moves(moved)], axis=1)
        fit_PC = _solved(columns, worse, inside * seen)
        gain_P = np.maximum(np.abs(fit_PC[:, 1]), LEAST_GAIN)
        step = np.clip(fit_PC[:, 4:] / gain_P[:, None], -MAX_STEP, MAX_STEP)
        affine_P6 = np.clip(affine_P6 + step, -MAX_MOTION, MAX_MOTION)
    moved, seen = _warped(better, other_inside, affine_P6, last=True)
    mask = inside * seen
    columns = np.stack(_lights(moved), axis=1)
    fit_PC = _solved(columns, worse, mask)
    fitted = np.einsum("pc,pcij->pij", fit_PC, columns)
    motion_P = _strongest_motion(worse - fitted, fitted, mask)
    flat_P = np.minimum(contrast_P, other_contrast_P) < LEAST_CONTRAST
    small_P = mask.mean(axis=(1, 2)) < LEAST_SHARE
    return np.where(flat_P | small_P, np.inf, motion_P * CROP_PX / CROP_GREY_PX)


def _strongest_motion(left: Float32, fitted: Float32, mask: Float32) -> Float:
    """Return the motion, in cells, that explains what is left where it explains most of it.

    Around each cell the one displacement d whose -gradient . d comes nearest to what is left
    (Lucas and Kanade 1981): noise and compression have no such d, an eyelid that closes
    has. With J the summed squares of the gradient and b those with what is left, it explains
    d . b of its energy. The mean of that over the strongest cells, against the energy of all
    gradients, is the square of a length.
    """
    x, y = _gradients(fitted)
    x, y = x * mask, y * mask
    xx, xy, yy, x_left, y_left = (
        _blurred(product, _NEAR) for product in (x * x, x * y, y * y, x * left, y * left)
    )
    energy_P = (x * x + y * y).sum(axis=(1, 2), dtype=np.float64)
    energy_P /= np.maximum(mask.sum(axis=(1, 2)), 1.0)
    floor = (STIFFNESS * energy_P).astype(np.float32)[:, None, None] + np.float32(1e-9)
    xx, yy = xx + floor, yy + floor
    explained = (yy * x_left**2 - 2 * xy * x_left * y_left + xx * y_left**2) / (xx * yy - xy**2)
    strongest = np.sort((explained * mask).reshape(len(left), -1), axis=1)[:, -STRONGEST_CELLS:]
    return np.asarray(np.sqrt(np.maximum(strongest.mean(axis=1), 0) / (energy_P + 1e-9)))


def _inside(grey_PGG: UInt8) -> Float32:
    """Return 1 where a cell is well inside the photo, and neither black nor burnt out."""
    import cv2

    kernels = [np.ones((2 * cells + 1,) * 2, np.uint8) for cells in (OUTSIDE_CELLS, CLIPPED_CELLS)]
    inside = np.empty(grey_PGG.shape, np.float32)
    for place, grey in enumerate(grey_PGG):
        photo = cv2.erode((grey > 0).astype(np.uint8), kernels[0])
        clipped = ((grey <= BLACK) | (grey >= WHITE)) & (grey > 0)
        inside[place] = photo * cv2.erode((~clipped).astype(np.uint8), kernels[1])
    return inside


def _levelled(grey_PGG: UInt8, mask: Float32) -> tuple[Float32, Float]:
    """Return pictures of mean 0 and deviation 1 within the mask, and their deviations."""
    soft = _blurred(grey_PGG.astype(np.float32), _FIRST)
    weight_P = np.maximum(mask.sum(axis=(1, 2)), 1.0)
    mean_P = np.einsum("pij,pij->p", soft, mask) / weight_P
    soft -= mean_P[:, None, None]
    deviation_P = np.sqrt(np.einsum("pij,pij,pij->p", soft, soft, mask) / weight_P)
    soft /= np.maximum(deviation_P, 1e-3)[:, None, None]
    return soft, deviation_P.astype(np.float64)


def _warped(
    pictures: Float32, inside: Float32, affine_P6: Float, *, last: bool = False
) -> tuple[Float32, Float32]:
    """Return pictures, and what is inside of them, moved by dx + a u + b v, dy + c u + d v."""
    import cv2

    side = (CROP_GREY_PX, CROP_GREY_PX)
    how = (cv2.INTER_CUBIC if last else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    moved, seen = np.empty_like(pictures), np.empty_like(inside)
    dx, a, b, dy, c, d = affine_P6.T
    for place in range(len(pictures)):
        matrix = np.array(
            [
                [1 + a[place] / _MIDDLE, b[place] / _MIDDLE, dx[place] - a[place] - b[place]],
                [c[place] / _MIDDLE, 1 + d[place] / _MIDDLE, dy[place] - c[place] - d[place]],
            ]
        )
        cv2.warpAffine(
            pictures[place], matrix, side, moved[place], how, borderMode=cv2.BORDER_REPLICATE
        )
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(inside[place], matrix, side, seen[place], flags)
    return moved, seen


def _gradients(pictures: Float32) -> tuple[Float32, Float32]:
    x, y = np.zeros_like(pictures), np.zeros_like(pictures)
    x[:, :, 1:-1] = (pictures[:, :, 2:] - pictures[:, :, :-2]) / 2
    y[:, 1:-1] = (pictures[:, 2:] - pictures[:, :-2]) / 2
    return x, y


def _lights(moved: Float32) -> list[Float32]:
    """Return the columns of offset, gain, gamma and blur."""
    laplacian = np.zeros_like(moved)
    inner = laplacian[:, 1:-1, 1:-1]
    inner += moved[:, 2:, 1:-1] + moved[:, :-2, 1:-1]
    inner += moved[:, 1:-1, 2:] + moved[:, 1:-1, :-2]
    inner -= 4 * moved[:, 1:-1, 1:-1]
    return [np.ones_like(moved), moved, moved * moved, laplacian]


def _moves(moved: Float32) -> list[Float32]:
    """Return the columns of an affine motion."""
    x, y = _gradients(moved)
    return [x, x * _U, x * _V, y, y * _U, y * _V]


def _solved(columns_PCGG: Float32, worse_PGG: Float32, mask: Float32) -> Float32:
    """Return the least squares fit of the columns to the worse crops, (P, C)."""
    pairs, count = columns_PCGG.shape[:2]
    flat = columns_PCGG.reshape(pairs, count, -1)
    weighted = flat * mask.reshape(pairs, 1, -1)
    normal = np.stack([w @ f.T for w, f in zip(weighted, flat, strict=True)])
    normal += np.float32(DAMPING * CROP_GREY_PX**2) * np.eye(count, dtype=np.float32)
    right = np.stack([w @ a.ravel() for w, a in zip(weighted, worse_PGG, strict=True)])
    return np.asarray(np.linalg.solve(normal, right[:, :, None])[:, :, 0], np.float32)


def _blur_matrix(sigma: float) -> Float32:
    """Return the matrix that blurs a line of cells, the outermost going on beyond the edge."""
    reach = int(np.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    matrix = np.zeros((CROP_GREY_PX, CROP_GREY_PX))
    for cell in range(CROP_GREY_PX):
        reached = np.clip(cell + offsets, 0, CROP_GREY_PX - 1)
        np.add.at(matrix[cell], reached, weights / weights.sum())
    return matrix.astype(np.float32)


def _blurred(pictures: Float32, matrix: Float32) -> Float32:
    return np.stack([matrix @ picture @ matrix.T for picture in pictures])


_FIRST, _NEAR = _blur_matrix(FIRST_BLUR), _blur_matrix(NEAR_BLUR)
_MIDDLE = (CROP_GREY_PX - 1) / 2
_V, _U = (np.mgrid[0:CROP_GREY_PX, 0:CROP_GREY_PX].astype(np.float32) - _MIDDLE) / _MIDDLE
_EDGE = np.zeros((CROP_GREY_PX, CROP_GREY_PX), np.float32)
_EDGE[EDGE_CELLS:-EDGE_CELLS, EDGE_CELLS:-EDGE_CELLS] = 1.0
