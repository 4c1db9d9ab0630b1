from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facepipe.errors import ConfigError
from tests.training import loss_reference
from tests.training.head_cases import (
    BY_COSINE,
    CLASSES,
    DIM,
    LABELS,
    MARGINS,
    WEIGHTS,
    batch,
    settings,
    spread_centres,
)
from training.fused_head import FusedHead
from training.heads import INIT_BLOCK_CLASSES, Head, HeadSettings, first_centres
from training.margins import elastic_margins

HEADS = pytest.mark.parametrize("kind", [Head, FusedHead])


def built(kind: type[Head], name: str, **more: Any) -> tuple[Head, Tensor]:
    """Return a float64 head with centres of several lengths, and a batch."""
    embeddings = batch().requires_grad_()
    head = kind(CLASSES, DIM, settings(name, **more)).double()
    spread_centres(head, near=embeddings.detach())
    return head, embeddings


def observed(name: str, embeddings: np.ndarray, centres: np.ndarray) -> dict[str, Any]:
    """Return the state that one batch leaves, from the papers' update rules."""
    valid = [i for i, label in enumerate(LABELS) if label != -1]
    norms = np.clip(np.linalg.norm(embeddings[valid], axis=1), 1e-3, 100)
    if name == "adaface":
        return {
            "mean": 0.99 * 20 + 0.01 * norms.mean(),
            "std": 0.99 * 100 + 0.01 * norms.std(ddof=1),
        }
    if name == "curricularface":
        units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        own = [max(units[i] @ w / np.linalg.norm(w) for w in centres[LABELS[i]]) for i in valid]
        return {"t": 0.01 * np.mean(own)}
    if name == "elasticface":
        return {"margins": elastic_margins(len(LABELS), 0.5, 0.0125, 0, 1).double().tolist()}
    return {"step": 1}


CASES = [
    *((name, 1, 0.0, None) for name in MARGINS),
    *((name, 1, 0.1, WEIGHTS) for name in MARGINS),
    *((name, 3, 0.0, None) for name in BY_COSINE),
]


@pytest.mark.parametrize(("name", "sub_centers", "smoothing", "weights"), CASES)
def test_value_and_gradients_are_the_papers(
    name: str, sub_centers: int, smoothing: float, weights: list[float] | None
) -> None:
    # Pieces of one or two classes in the fused head.
    more = {"sub_centers": sub_centers, "label_smoothing": smoothing, "chunk_bytes": 48}
    heads = [built(kind, name, **more) for kind in (Head, FusedHead)]
    x, centres = heads[0][1].detach().numpy(), heads[0][0].centres.detach().numpy().copy()
    rest = {"more": observed(name, x, centres), "smoothing": smoothing, "weights": weights}
    value, x_grad = loss_reference.derivative(
        lambda x: loss_reference.loss(name, x, centres.astype(complex), LABELS, **rest), x
    )
    _, centres_grad = loss_reference.derivative(
        lambda w: loss_reference.loss(name, x.astype(complex), w, LABELS, **rest), centres
    )
    weights_B = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    for head, embeddings in heads:
        loss = head(embeddings, torch.tensor(LABELS), weights_B)
        loss.backward()
        assert loss.item() == pytest.approx(value, rel=0, abs=1e-12)
        assert embeddings.grad is not None and head.centres.grad is not None
        torch.testing.assert_close(embeddings.grad.numpy(), x_grad, rtol=0, atol=1e-8)
        torch.testing.assert_close(head.centres.grad.numpy(), centres_grad, rtol=0, atol=1e-8)


def arcface_torch_loss(
    embeddings: Tensor, centres: Tensor, labels: Tensor, m2: float, m3: float
) -> Tensor:
    """Its PartialFC at rate 1 with CombinedMarginLoss: margins in place, without gradient."""
    logits = nn.functional.normalize(embeddings) @ nn.functional.normalize(centres).T
    logits = logits.clamp(-1, 1)
    rows = torch.where(labels != -1)[0]
    target = logits[rows, labels[rows]]
    if m3 == 0.0:
        with torch.no_grad():
            logits.arccos_()
            logits[rows, labels[rows]] = target.arccos() + m2
            logits.cos_()
    else:
        logits[rows, labels[rows]] = target - m3
    return nn.functional.cross_entropy(logits[rows] * 64.0, labels[rows])


@HEADS
@pytest.mark.parametrize(
    ("margin", "m2", "m3"),
    [
        ({"name": "arcface", "gradient": "detached", "past_pi": "wrap"}, 0.5, 0.0),
        ({"name": "cosface", "margin": 0.4}, 0.0, 0.4),
        (
            {
                "name": "combined",
                "m2_rad": 0.3,
                "m3": 0.0,
                "gradient": "detached",
                "past_pi": "wrap",
            },
            0.3,
            0.0,
        ),
        ({"name": "combined", "m2_rad": 0.0, "m3": 0.35}, 0.0, 0.35),
    ],
)
def test_equals_arcface_torch_in_float32(
    kind: type[Head], margin: dict[str, Any], m2: float, m3: float
) -> None:
    torch.manual_seed(0)
    head = kind(200, 32, HeadSettings.model_validate({"margin": margin}))
    labels = torch.randint(-1, 200, (64,))
    # Near their centres, as after some training.
    own = head.centres.detach()[labels.clamp(min=0), 0]
    own = own / own.norm(dim=1, keepdim=True) + 0.15 * torch.randn(64, 32)
    ours, theirs = (own.clone().requires_grad_() for _ in range(2))
    centres = head.centres.detach()[:, 0].clone().requires_grad_()
    losses = head(ours, labels), arcface_torch_loss(theirs, centres, labels, m2, m3)
    for loss in losses:
        loss.backward()
    assert ours.grad is not None and theirs.grad is not None
    assert head.centres.grad is not None and centres.grad is not None
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    length = 0.01 * 32**0.5  # of a first centre; its gradient grows with 1 / length
    torch.testing.assert_close(
        head.centres.grad[:, 0] * length, centres.grad * length, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", MARGINS)
def test_logits_give_the_loss(name: str) -> None:
    head, embeddings = built(Head, name)
    head.eval()
    labels = torch.tensor(LABELS)
    logits = head.logits(embeddings, labels)
    assert logits.shape == (len(LABELS), CLASSES)
    kept = labels != -1
    expected = torch.nn.functional.cross_entropy(logits[kept], labels[kept])
    penalty = head.rule.penalty(embeddings.norm(dim=1))
    if penalty is not None:
        expected = expected + penalty[kept].mean()
    assert head(embeddings, labels).item() == pytest.approx(expected.item(), abs=1e-12)


@HEADS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MARGINS)
def test_finite_on_and_beside_the_centres(kind: type[Head], name: str, dtype: torch.dtype) -> None:
    """Rows equal to their centre, opposite to it, zero, and one alone, under autocast."""
    head = kind(CLASSES, DIM, settings(name))
    spread_centres(head)
    own = head.centres.detach()[:4, 0, :DIM]
    rows = torch.cat([own[:2], -own[2:], torch.zeros(1, DIM), own[:1] * 1e-4]).to(dtype)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    for part in (slice(None), slice(0, 1), slice(2, 3)):
        embeddings = rows[part].clone().requires_grad_()
        head.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = head(embeddings, labels[part])
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert embeddings.grad is not None and head.centres.grad is not None
        assert embeddings.grad.isfinite().all()
        assert head.centres.grad.isfinite().all()
    assert all(value.isfinite().all() for value in head.state_dict().values())


@HEADS
@pytest.mark.parametrize("name", MARGINS)
def test_autocast_changes_nothing(kind: type[Head], name: str) -> None:
    losses = []
    for enabled in (False, True):
        head = kind(CLASSES, DIM, settings(name))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.append(head(batch().float(), torch.tensor(LABELS)).item())
    assert losses[0] == losses[1]


@HEADS
@pytest.mark.parametrize("name", MARGINS)
def test_a_batch_without_labels_has_loss_0_and_moves_nothing(kind: type[Head], name: str) -> None:
    head, embeddings = built(kind, name)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    loss = head(embeddings, torch.full((len(LABELS),), -1))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None and not embeddings.grad.any()
    assert head.centres.grad is not None and not head.centres.grad.any()
    for key, value in head.state_dict().items():
        if not key.endswith("_extra_state"):  # steps are counted all the same
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", MARGINS)
def test_state_carries_on(name: str) -> None:
    """A head from a state dict gives what the first one would have given."""
    head, embeddings = built(Head, name)
    labels = torch.tensor(LABELS)
    head(embeddings, labels)
    twin = Head(CLASSES, DIM, settings(name)).double()
    twin.load_state_dict(head.state_dict())
    for _ in range(2):
        assert torch.equal(head(embeddings, labels), twin(embeddings, labels))


def test_evaluation_moves_no_statistics() -> None:
    for name in ("adaface", "curricularface", "sphereface", "elasticface"):
        head, embeddings = built(Head, name)
        head.eval()
        first = head(embeddings, torch.tensor(LABELS))
        assert torch.equal(first, head(embeddings, torch.tensor(LABELS)))


def test_first_centres_are_the_same_in_any_range() -> None:
    total = INIT_BLOCK_CLASSES + 100
    whole = first_centres(0, total, 2, 3, seed=5)
    cut = INIT_BLOCK_CLASSES - 7
    parts = [first_centres(0, cut, 2, 3, seed=5), first_centres(cut, total, 2, 3, seed=5)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, first_centres(0, total, 2, 3, seed=6))
    assert whole.std().item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("name", ["softmax", "lsoftmax"])
def test_sub_centres_need_cosines(name: str) -> None:
    with pytest.raises(ConfigError, match=f"sub_centers = 3 with head.margin.name = {name}"):
        Head(CLASSES, DIM, settings(name, sub_centers=3))


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        ("arcface", "ArcFaceLoss", {"margin": math.degrees(0.5), "scale": 64}),
        ("cosface", "CosFaceLoss", {"margin": 0.4, "scale": 64}),
        ("normface", "NormalizedSoftmaxLoss", {"temperature": 1 / 64}),
    ],
)
def test_equals_pytorch_metric_learning(
    name: str, theirs: str, arguments: dict[str, float]
) -> None:
    """A second opinion, away from |c| = 1, where its gradients are not numbers."""
    reason = "pytorch-metric-learning is not installed: it is a second opinion on losses alone"
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason=reason)
    head = Head(CLASSES, DIM, settings(name)).double()
    spread_centres(head)
    embeddings = batch()
    labels = torch.tensor([max(label, 0) for label in LABELS])
    peer = getattr(losses, theirs)(num_classes=CLASSES, embedding_size=DIM, **arguments).double()
    with torch.no_grad():
        peer.W.copy_(head.centres[:, 0].T)
    given = [embeddings.clone().requires_grad_() for _ in range(2)]
    values = head(given[0], labels), peer(given[1], labels)
    for value in values:
        value.backward()
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-9)
    assert given[0].grad is not None and given[1].grad is not None
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=0, atol=1e-8)
