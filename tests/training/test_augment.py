"""Changes to crops: each against another implementation, and keyed by sample alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from scipy import ndimage

from tests.training.made_crops import crop
from training.augment import AugmentSettings, augment, draws, is_changed
from training.keyed_random import key_of, uniforms

COLUMNS = (
    "flip affine angle scale shift_x shift_y colour brightness contrast saturation grey blur sigma "
    "low_resolution side smaller_by larger_by jpeg quality occlusion area aspect left top red "
    "green blue"
).split()
SHARES = ("flip", "affine", "colour", "grey", "blur", "low_resolution", "jpeg", "occlusion")


def smooth(number: int = 1) -> NDArray[np.uint8]:
    """Return a crop that interpolation is not in doubt about, far from black and white."""
    blurred = cv2.GaussianBlur(crop(number).astype(np.float32), (0, 0), 6)
    return np.asarray(60 + blurred * 0.5, np.uint8)


def changed(
    picture: NDArray[np.uint8], settings: dict[str, Any], **drawn: float
) -> NDArray[np.uint8]:
    """Return a crop after one change, by these numbers; the middle of each range elsewhere."""
    own = picture.copy()
    row = [0.0 if name in SHARES else 0.5 for name in COLUMNS]
    for name, value in drawn.items():
        row[COLUMNS.index(name)] = value
    augment(own, row, AugmentSettings(**{"flip": 0.0, **settings}))
    return own


def test_mirrored() -> None:
    assert (changed(crop(1), {"flip": 1.0}) == crop(1)[:, ::-1]).all()


@pytest.mark.parametrize("angle_deg", [-30, 0, 12])
@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
@pytest.mark.parametrize("shift_px", [(0.0, 0.0), (6.5, -3.0)])
def test_turned_scaled_and_moved(
    angle_deg: float, factor: float, shift_px: tuple[float, float]
) -> None:
    settings = {"affine": 1.0, "rotation_deg": 40, "scale": 0.25, "shift_px": 8}
    found = changed(
        smooth(),
        settings,
        angle=(angle_deg / 40 + 1) / 2,
        scale=((factor - 1) / 0.25 + 1) / 2,
        shift_x=(shift_px[0] / 8 + 1) / 2,
        shift_y=(shift_px[1] / 8 + 1) / 2,
    )
    # Backwards, y before x: where each pixel of the result comes from.
    turn = np.deg2rad(angle_deg)
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / factor
    middle = np.array([55.5, 55.5])
    offset = middle - back @ (middle + shift_px[::-1])
    expected = np.dstack(
        [ndimage.affine_transform(smooth()[:, :, c], back, offset, order=1) for c in range(3)]
    )
    inside = ndimage.affine_transform(np.ones((112, 112)), back, offset, order=1) > 0.999
    inside = ndimage.binary_erosion(inside, iterations=2)
    assert inside.mean() > 0.35
    difference = np.abs(found.astype(int) - expected)[inside]
    assert difference.max() <= 3  # OpenCV interpolates in steps of 1/32 px
    assert (found[~ndimage.binary_dilation(inside, iterations=6)] == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_coloured_as_pillow_does(name: str, enhance: Any, value: float) -> None:
    settings = {"colour": 1.0, "colour_strength": 0.4}
    found = changed(smooth(), settings, **{name: value})
    factor = 1 + 0.4 * (2 * value - 1)
    expected = np.asarray(enhance(Image.fromarray(smooth())).enhance(factor))
    assert np.abs(found.astype(int) - expected).max() <= 2  # Pillow rounds its greys


def test_all_colours_at_once_are_one_after_the_other() -> None:
    settings = {"colour": 1.0, "colour_strength": 0.3}
    found = changed(smooth(), settings, brightness=0.9, contrast=0.1, saturation=0.75)
    image = Image.fromarray(smooth())
    for enhance, value in (("Color", 0.75), ("Brightness", 0.9), ("Contrast", 0.1)):
        image = getattr(ImageEnhance, enhance)(image).enhance(1 + 0.3 * (2 * value - 1))
    assert np.abs(found.astype(int) - np.asarray(image)).max() <= 3


def test_without_colour() -> None:
    found = changed(crop(1), {"grey": 1.0})
    expected = crop(1) @ np.array([0.299, 0.587, 0.114])
    assert (found == found[:, :, :1]).all()
    assert np.abs(found[:, :, 0] - expected).max() <= 0.51


@pytest.mark.parametrize("sigma_px", [0.6, 1.5, 3.0])
def test_blurred_by_a_gaussian(sigma_px: float) -> None:
    found = changed(crop(3), {"blur": 1.0, "blur_sigma_px": 4}, sigma=sigma_px / 4)
    picture = crop(3).astype(np.float64)
    expected = ndimage.gaussian_filter(picture, (sigma_px, sigma_px, 0), mode="mirror")
    assert np.abs(found - expected).mean() < 1.0
    assert found.std() < crop(3).std()


@pytest.mark.parametrize("side", [8, 40, 111])
def test_made_small_and_large_again(side: int) -> None:
    share = (side - 8 + 0.5) / 104  # of least_px .. 112
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    drawn = {"side": share, "smaller_by": 0.0, "larger_by": 0.0}  # by nearest pixels
    found = changed(noise, {"low_resolution": 1.0, "low_resolution_px": 8}, **drawn)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= side**2
    rows = np.unique(found.reshape(112, -1), axis=0)
    assert len(rows) == side


@pytest.mark.parametrize("by", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_every_interpolation_is_drawn(by: float) -> None:
    settings = {"low_resolution": 1.0, "low_resolution_px": 20}
    drawn = {"side": 0.0, "smaller_by": 0.5}
    found = changed(crop(2), settings, larger_by=by, **drawn)
    others = [changed(crop(2), settings, larger_by=o, **drawn) for o in (0.0, 0.2, 0.6, 0.8)]
    same = sum((found == other).all() for other in others)
    # Enlarging, OpenCV's "area" is a bilinear of its own.
    assert same == (0 if by == 0.4 else 1)


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_compressed_once_more(quality: int) -> None:
    found = changed(smooth(4), {"jpeg": 1.0}, quality=(quality - 30 + 0.5) / 66).astype(int)
    away = {}
    for other in (30, 45, 60, 80, 95):
        options = [cv2.IMWRITE_JPEG_QUALITY, other]
        data = cv2.imencode(".jpg", smooth(4)[:, :, ::-1], options)[1]
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]
        away[other] = float(np.abs(found - pixels).mean())
    assert min(away, key=away.__getitem__) == quality
    assert away[quality] < 1.0  # the two encoders round in their own ways


def test_qualities_reach_from_the_least_to_95() -> None:
    for least, drawn, quality in ((30, 0.0, 30), (30, 1 - 2**-53, 95), (95, 0.7, 95)):
        found = changed(smooth(4), {"jpeg": 1.0, "jpeg_quality": least}, quality=drawn)
        same = changed(
            smooth(4), {"jpeg": 1.0, "jpeg_quality": 1}, quality=(quality - 1 + 0.5) / 95
        )
        assert (found == same).all()


def test_occluded_by_one_rectangle_of_one_colour() -> None:
    shares, tops, colours = [], [], set()
    for row in uniforms(key_of(4), np.arange(150), len(COLUMNS)):
        own = np.full((112, 112, 3), 200, np.uint8)
        own[:, :, 1] = 7
        augment(own, row.tolist(), AugmentSettings(flip=0.0, occlusion=1.0, occlusion_share=0.3))
        hidden = (own != [200, 7, 200]).any(axis=2)
        ys, xs = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert hidden[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].all()  # a rectangle
        assert len(np.unique(own[hidden], axis=0)) == 1
        shares.append(hidden.mean())
        tops.append(ys[0])
        colours.add(tuple(own[hidden][0]))
    assert 0.015 < min(shares) < 0.05 and 0.25 < max(shares) <= 0.32
    assert min(tops) < 5 and max(tops) > 70
    assert len(colours) > 140


@pytest.mark.parametrize("value", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("share", [0.02, 1.0])
def test_no_draw_is_out_of_bounds(value: float, share: float) -> None:
    on = dict.fromkeys(SHARES, 1.0)
    settings = AugmentSettings(**on, occlusion_share=share, low_resolution_px=4, blur_sigma_px=20)
    own = crop(1)
    augment(own, [0.0 if name in SHARES else value for name in COLUMNS], settings)
    assert own.shape == (112, 112, 3)


# -- keys --------------------------------------------------------------------------------


def test_draws_depend_on_seed_epoch_sample_and_copy() -> None:
    one = np.array([5]), np.array([0])
    keys = [(0, 0, *one), (1, 0, *one), (0, 1, *one), (0, 0, one[0] + 1, one[1])]
    keys.append((0, 0, one[0], one[1] + 1))
    rows = [tuple(draws(*key)[0]) for key in keys]
    assert len(set(rows)) == len(rows)
    assert all(len(row) == len(COLUMNS) for row in rows)


def test_a_row_does_not_depend_on_its_batch() -> None:
    samples, copies = np.array([3, 9, 3, 10**12]), np.array([0, 0, 1, 0])
    together = draws(7, 2, samples, copies)
    for row in range(4):
        alone = draws(7, 2, samples[row : row + 1], copies[row : row + 1])
        assert (alone[0] == together[row]).all()


def test_shares_are_the_share_of_crops() -> None:
    drawn = draws(1, 3, np.arange(20_000), np.zeros(20_000, np.int64))
    for name in SHARES:
        settings = AugmentSettings(**{"flip": 0.0, name: 0.3})
        assert abs(is_changed(drawn, settings).mean() - 0.3) < 0.013  # 4 sigma
    both = AugmentSettings(flip=0.5, blur=0.4)
    assert abs(is_changed(drawn, both).mean() - 0.7) < 0.013  # 1 - 0.5 * 0.6


def test_only_what_is_changed_is_touched() -> None:
    settings = AugmentSettings(flip=0.2, colour=0.1, occlusion=0.1, jpeg=0.05)
    drawn = draws(0, 0, np.arange(200), np.zeros(200, np.int64))
    expected = is_changed(drawn, settings)
    for row in range(200):
        own = crop(5)
        augment(own, drawn[row].tolist(), settings)
        assert (own != crop(5)).any() == expected[row]


def test_what_is_turned_on_does_not_alter_the_others() -> None:
    row = draws(0, 0, np.array([11]), np.array([0]))[0].tolist()
    plain, more = crop(5), crop(5)
    augment(plain, row, AugmentSettings(flip=1.0, colour=1.0))
    augment(more, row, AugmentSettings(flip=1.0, colour=1.0, occlusion=1.0))
    kept = (plain == more).all(axis=2)
    assert 0.65 < kept.mean() < 0.99


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"scale": 1.0}, {"jpeg_quality": 96}, {"b": 1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AugmentSettings.model_validate(wrong)
