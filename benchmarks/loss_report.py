"""The table and the figure of bench_losses.py, from its runs.

Legend: P pairs, S seeds, L losses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from loss_families import FAMILIES, REFERENCE
from loss_runs import UNTRAINED

from facepipe.bootstrap import resampled
from facepipe.evaluate import fold_accuracy, read_pairs

Float64 = npt.NDArray[np.float64]
Result = dict[str, Any]

RESAMPLES = 2000
CONFIDENCE = 0.95
MARKS = ("<!-- losses -->", "<!-- /losses -->")
GROUPS = {
    "softmax": "softmax, multiplicative margins",
    "margins": "additive margins",
    "pairs": "pairs and triplets",
}


def by_loss(results: Iterable[Result], stage: str) -> dict[str, list[Result]]:
    """Return the runs of a stage by loss, by rising seed."""
    found: dict[str, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda r: (r["seed"], r["value"], r["rate"])):
        if result["stage"] == stage:
            found[result["loss"]].append(result)
    return found


def table(results: Iterable[Result], pairs_file: Path) -> str:
    """Return what was measured, and what was tried before, as Markdown."""
    results = list(results)
    finals = by_loss(results, "final")
    lines = [
        "| loss | setting | accuracy | sd | AUC | TAR at FAR 1 % | less ArcFace's | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    mean = {loss: np.mean([r["accuracy"] for r in runs]) for loss, runs in finals.items()}
    truth = _Truth(pairs_file)
    for loss in sorted(finals, key=lambda name: -mean[name]):
        lines.append(_row(loss, finals, truth))
    lines += ["", "Tries (AUC on the fold before the test, seed 0):", ""]
    lines += ["| loss | " + "learning rate, setting: AUC |", "|---|---|"]
    for loss, runs in by_loss(results, "tune").items():
        best = max(run["auc"] for run in runs)
        texts = [_try(loss, run, run["auc"] == best) for run in runs]
        lines.append(f"| {FAMILIES[loss].title} | {'; '.join(texts)} |")
    return "\n".join(lines)


def paged(page: str, tables: str) -> str:
    """Return a page with the tables between its two marks. Raises ValueError without them."""
    before, _, rest = page.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise ValueError(f"the page has no {MARKS[0]} followed by {MARKS[1]}")
    return f"{before}{MARKS[0]}\n{tables}\n{mark}{after}"


def _row(loss: str, finals: dict[str, list[Result]], truth: _Truth) -> str:
    runs = finals[loss]
    values = {key: [run[key] for run in runs] for key in ("accuracy", "auc", "tar")}
    sd = f"{100 * np.std(values['accuracy'], ddof=1):.2f}" if len(runs) > 1 else ""
    difference = ""
    if loss != REFERENCE and REFERENCE in finals:
        gain, low, high = truth.difference(runs, finals[REFERENCE])
        difference = f"{100 * gain:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    title = "no training" if loss == UNTRAINED else FAMILIES[loss].title
    return (
        f"| {title} | {_setting(loss, runs[0])} | {100 * np.mean(values['accuracy']):.2f} | {sd} | "
        f"{np.mean(values['auc']):.4f} | {100 * np.mean(values['tar']):.1f} | {difference} | "
        f"{len(runs)} |"
    )


def _setting(loss: str, run: Result) -> str:
    if loss == UNTRAINED:
        return ""
    name = FAMILIES[loss].setting
    return f"lr {run['rate']:g}" + (f", {name} {run['value']:g}" if name else "")


def _try(loss: str, run: Result, best: bool) -> str:
    text = f"{_setting(loss, run)}: {run['auc']:.4f}"
    return f"**{text}**" if best else text


class _Truth:
    """The test pairs: who is in them, and how runs are compared on them."""

    def __init__(self, pairs_file: Path, folds: int = 2) -> None:
        pairs = read_pairs(pairs_file)
        chosen = pairs.fold_P > pairs.fold_P.max() - folds
        self.same_P, self.fold_P = pairs.same_P[chosen], pairs.fold_P[chosen]
        sides = [[side[p][0] for p in np.flatnonzero(chosen)] for side in (pairs.left, pairs.right)]
        _, code = np.unique(np.array(sides), return_inverse=True)
        self.people_P2 = code.reshape(2, -1).T

    def right(self, run: Result) -> Float64:
        """Return which pairs a run judged right, each fold by the other's threshold (P,)."""
        scores_P = np.array(run["similarities"])
        judged = fold_accuracy(scores_P, self.same_P, self.fold_P)
        threshold = dict(zip(judged.folds.tolist(), judged.threshold.tolist(), strict=True))
        limit_P = np.array([threshold[fold] for fold in self.fold_P.tolist()])
        accepted_P = np.where(np.isnan(scores_P), ~self.same_P, scores_P >= limit_P)
        return (accepted_P == self.same_P).astype(np.float64)

    def difference(self, runs: list[Result], others: list[Result]) -> tuple[float, float, float]:
        """Return the gain in accuracy, and its bounds over people and seeds drawn anew."""
        one_SP, other_SP = (np.stack([self.right(run) for run in side]) for side in (runs, others))
        rng = np.random.default_rng(0)
        gains = []
        for times_P in resampled(self.people_P2, RESAMPLES, seed=0):
            seeds, other_seeds = (rng.integers(len(x), size=len(x)) for x in (one_SP, other_SP))
            gain_P = one_SP[seeds].mean(axis=0) - other_SP[other_seeds].mean(axis=0)
            gains.append((gain_P * times_P).sum() / times_P.sum())
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(gains, (tail, 1 - tail))
        return float((one_SP.mean(axis=0) - other_SP.mean(axis=0)).mean()), float(low), float(high)


def draw(results: Iterable[Result], path: Path) -> None:
    """Write the curves: mean AUC by samples seen, a panel a group, ArcFace grey in the others."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "facepipe", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    finals = by_loss(results, "final")
    figure, panels = plt.subplots(1, len(GROUPS), figsize=(11, 4), sharey=True)
    for panel, (group, title) in zip(panels, GROUPS.items(), strict=True):
        members = [loss for loss in FAMILIES if FAMILIES[loss].group == group and loss in finals]
        if REFERENCE in finals and REFERENCE not in members:
            _line(panel, finals[REFERENCE], finals, "ArcFace", color="0.6", linestyle="--")
        for place, loss in enumerate(members):
            colour = mpl.colormaps["tab10"](place % 10)
            _line(panel, finals[loss], finals, FAMILIES[loss].title, color=colour)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("steps of 64 samples")
        panel.grid(alpha=0.3, linewidth=0.5)
        if members:
            panel.legend(fontsize=7, loc="lower right", frameon=False)
    panels[0].set_ylabel("AUC on 1,200 pairs of unseen people")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})


def _line(
    panel: Any, runs: list[Result], finals: dict[str, list[Result]], label: str, **style: Any
) -> None:
    """Draw the mean over seeds, from the untrained net on."""
    start = [run["auc"] for run in finals.get(UNTRAINED, [])]
    points = [(0.0, float(np.mean(start)))] if start else []
    points += [
        (float(column[0][0]), float(np.mean([auc for _, auc, _ in column])))
        for column in zip(*(run["curve"] for run in runs), strict=True)
    ]
    panel.plot(*zip(*points, strict=True), label=label, linewidth=1.2, **style)
