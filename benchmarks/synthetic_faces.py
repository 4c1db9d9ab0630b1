"""Synthetic face embeddings: people of log-normal size, with difficulty as a setting.

Centres are uniform on the sphere of so many *effective* dimensions, which is what makes
strangers alike: the fewer, the harder (a good ArcFace model on LFW spreads strangers like 200
dimensions; hard photos like 32 to 64). The faces of a person have cosines to the centre of
N(0.68, 0.12), and all are turned into 512 dimensions.

Legend: N faces, I identities, D = 512 dimensions, E effective dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DIM = 512
CENTRE_COSINE, CENTRE_STD = 0.68, 0.12
MEDIAN_SIZE, SIZE_SIGMA, LARGEST = 12.0, 0.8, 400  # faces a person
BLOCK_FACES = 1 << 16


@dataclass(frozen=True, slots=True)
class Faces:
    """Unit float16 vectors (N, D) and the person each belongs to (N,), in mixed order."""

    vectors_ND: npt.NDArray[np.float16]
    identity_N: npt.NDArray[np.int64]


def make_faces(faces: int, *, dimensions: int = 64, seed: int = 0, smallest: int = 1) -> Faces:
    """Return about so many faces (exactly, the last person is cut) for a seed."""
    rng = np.random.default_rng([seed, faces, dimensions])
    sizes = np.exp(rng.normal(np.log(MEDIAN_SIZE), SIZE_SIGMA, faces))
    size_I = np.clip(np.rint(sizes), smallest, LARGEST).astype(np.int64)
    size_I = size_I[: int(np.searchsorted(np.cumsum(size_I), faces)) + 1]
    identity_N = np.repeat(np.arange(len(size_I)), size_I)[:faces]
    identity_N = identity_N[rng.permutation(faces)]
    centres_IE = _unit(rng.standard_normal((len(size_I), dimensions), np.float32))
    basis_ED = np.linalg.qr(rng.standard_normal((DIM, dimensions)))[0].T.astype(np.float32)
    vectors_ND = np.empty((faces, DIM), np.float16)
    for start in range(0, faces, BLOCK_FACES):
        rows = slice(start, min(start + BLOCK_FACES, faces))
        vectors_ND[rows] = _around(centres_IE[identity_N[rows]], rng) @ basis_ED
    return Faces(vectors_ND, identity_N)


def _around(
    centres_BE: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return a unit vector at a random cosine from each centre."""
    cosine_B = np.clip(rng.normal(CENTRE_COSINE, CENTRE_STD, len(centres_BE)), -0.2, 0.99)
    aside_BE = rng.standard_normal(centres_BE.shape, np.float32)
    aside_BE -= np.einsum("be,be->b", aside_BE, centres_BE)[:, None] * centres_BE
    cosine_B1 = cosine_B.astype(np.float32)[:, None]
    return cosine_B1 * centres_BE + np.sqrt(1 - cosine_B1**2) * _unit(aside_BE)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
