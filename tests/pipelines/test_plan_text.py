"""What a plan and its comparison say."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.plan_text import format_comparison


def found(actual_faces: float, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "same_settings": True,
        "workers": 2,
        "faces": {
            "actual": actual_faces,
            "planned": [10_500, 10_300, 11_200],
            "right": 10_300 <= actual_faces <= 11_200,
        },
        "work_s": {"actual": seconds, "planned": [360, 324, 432], "right": 324 <= seconds <= 432},
        **more,
    }


@pytest.mark.parametrize(
    ("faces", "seconds", "text"),
    [
        (
            10_746,
            396,
            "plan: 10,746 faces, planned 10,300 to 11,200: right; "
            "0.11 h of work, planned 0.09 to 0.12: right",
        ),
        (
            9_450,
            720,
            "plan: 9,450 faces, planned 10,300 to 11,200: less than planned by 10%; "
            "0.2 h of work, planned 0.09 to 0.12: more than planned by 100%",
        ),
    ],
)
def test_how_right_a_plan_was_is_a_line(faces: float, seconds: float, text: str) -> None:
    assert format_comparison(found(faces, seconds)) == text


def test_wall_time_and_other_settings_are_said() -> None:
    wall = {"actual": 200.0, "planned": [180.0, 180.0, 180.0], "right": False}
    text = format_comparison({**found(10_746, 396, wall_s=wall), "same_settings": False})
    assert "; 0.0556 h with 2 workers, planned 0.05: more than planned by 11%" in text
    assert text.endswith("(planned with other settings or models)")
