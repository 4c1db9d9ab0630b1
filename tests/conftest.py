"""What all tests share: no telemetry, the real assets, and a summary that says what was skipped."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(os.environ.get("FACEPIPE_ASSETS", ROOT.parent / "shared" / "assets"))

# Set before anything is imported, and inherited by every process a test starts.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Hypothesis would make a folder of its own at the top level.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".pytest_cache" / "hypothesis"),
    }
)
# The same examples every time, and no judgement by the clock.
settings.register_profile("facepipe", deadline=None, derandomize=True, database=None)
settings.load_profile("facepipe")


@pytest.fixture(scope="session")
def assets() -> Path:
    """Return the folder of real photos and models; skip where it is absent."""
    if not ASSETS.is_dir():
        pytest.skip(f"no assets at {ASSETS} (FACEPIPE_ASSETS names another folder)")
    return ASSETS


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked gpu where there is no NVIDIA GPU."""
    if item.get_closest_marker("gpu") and shutil.which("nvidia-smi") is None:
        pytest.skip("no NVIDIA GPU (nvidia-smi is not on PATH)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped and why, so that a green run hides nothing."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        longrepr = report.longrepr
        text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    if not reasons:
        return
    terminalreporter.section(f"{reasons.total()} skipped")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:5d}  {reason}")
