"""Which code ran, with which packages, on what: for the record of a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from facepipe import __version__

_ROOT = Path(__file__).resolve().parents[1]
_GIT_S = 10  # seconds until a hung git is given up


def code_version() -> dict[str, str]:
    """Return facepipe's version and, where it runs from a checkout, the commit.

    A commit ends in ``-dirty`` where tracked files differ from it.
    """
    found = {"facepipe": __version__}
    if (_ROOT / ".git").exists():
        # --exclude=* leaves no tag to describe by: the whole commit is printed.
        command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
        try:
            ran = subprocess.run(
                [*command, "--exclude=*"], capture_output=True, text=True, timeout=_GIT_S
            )
        except (OSError, subprocess.TimeoutExpired):  # no git here: the version has to do
            return found
        if ran.returncode == 0:
            found["commit"] = ran.stdout.strip()
    return found


def packages() -> dict[str, str]:
    """Return the version of every installed distribution, by name."""
    named = ((d.metadata["Name"], d.version) for d in importlib.metadata.distributions())
    return dict(sorted((name.lower(), version) for name, version in named if name))


def environment() -> dict[str, Any]:
    """Return code, Python, machine and packages, as JSON. The machine's name is not in it."""
    return {
        "code": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "packages": packages(),
    }
