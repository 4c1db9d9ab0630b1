"""What is special to pieces; that the losses are right is in test_heads, of both heads."""

from __future__ import annotations

import pytest
import torch

from tests.training.head_cases import BY_COSINE, MARGINS, settings
from tests.training.live_bytes import LiveBytes
from training.centre_sgd import CentreSGD
from training.fused_head import FusedHead
from training.heads import Head
from training.partial_fc import PartialFC

DIM = 4


def test_two_classes_are_a_logistic_loss() -> None:
    head = FusedHead(2, DIM, settings("normface"))
    embeddings, labels = torch.randn(6, DIM), torch.tensor([0, 1, 0, 1, 1, 0])
    dense = Head(2, DIM, settings("normface"))
    torch.testing.assert_close(head(embeddings, labels), dense(embeddings, labels))


@pytest.mark.parametrize("name", MARGINS)
def test_the_matrix_is_never_built(name: str) -> None:
    rows, classes, dim, chunk_bytes = 64, 6_000, 8, 1 << 14
    head = FusedHead(classes, dim, settings(name, chunk_bytes=chunk_bytes))
    embeddings = torch.randn(rows, dim, requires_grad=True)
    labels = torch.randint(0, classes, (rows,))
    matrix_bytes, gradient_bytes = 4 * rows * classes, head.centres.nbytes
    with LiveBytes(head.centres) as live:
        loss = head(embeddings, labels)
        forward_bytes = live.peak - gradient_bytes
        loss.backward()
    backward_bytes = live.peak - 2 * gradient_bytes
    assert forward_bytes < 12 * chunk_bytes
    assert backward_bytes < 12 * chunk_bytes
    assert 20 * chunk_bytes < matrix_bytes


@pytest.mark.parametrize("name", BY_COSINE)
def test_float32_is_the_dense_head(name: str) -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(32, 16), torch.randint(0, 500, (32,))
    results = []
    for kind in (Head, FusedHead):
        head = kind(500, 16, settings(name, chunk_bytes=1 << 12))
        given = embeddings.clone().requires_grad_()
        loss = head(given, labels)
        loss.backward()
        assert given.grad is not None and head.centres.grad is not None
        # Centres of length 0.04 have gradients 25 times those of unit ones.
        results.append((loss.detach(), given.grad, head.centres.grad * 0.04))
    for ours, dense in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-6, atol=3e-6)


def test_bfloat16_products_leave_the_target_exact() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(32, 64), torch.randint(0, 500, (32,))
    results = []
    for dtype in ("float32", "bfloat16"):
        head = FusedHead(500, 64, settings("arcface", gemm_dtype=dtype))
        given = embeddings.clone().requires_grad_()
        loss = head(given, labels)
        loss.backward()
        assert given.grad is not None and head.centres.grad is not None
        results.append((loss.detach(), given.grad, head.centres.grad))
    (loss, *grads), (rough, *rough_grads) = results
    assert rough.item() == pytest.approx(loss.item(), rel=2e-3)
    for ours, exact in zip(rough_grads, grads, strict=True):
        assert ours.dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(ours.flatten(), exact.flatten(), dim=0)
        assert cosine > 0.9995


def test_weights_of_samples_reach_the_gradient() -> None:
    torch.manual_seed(0)
    head = FusedHead(20, DIM, settings("cosface"))
    embeddings = torch.randn(4, DIM, requires_grad=True)
    labels = torch.tensor([1, 2, 3, 4])
    (whole,) = torch.autograd.grad(
        head(embeddings, labels, torch.tensor([1.0, 0.0, 2.0, 0.0])), embeddings
    )
    (part,) = torch.autograd.grad(
        head(embeddings[::2], labels[::2], torch.tensor([1.0, 2.0])), embeddings
    )
    torch.testing.assert_close(whole, part)
    assert not whole[1].any()


@pytest.mark.gpu
@pytest.mark.parametrize("rate", [1.0, 0.2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MARGINS)
def test_a_gpu_gives_what_the_cpu_gives(name: str, dtype: str, rate: float) -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(32, 64) * 10, torch.randint(0, 500, (32,))
    results = []
    for device in ("cpu", "cuda"):
        gemm_dtype = dtype if device == "cuda" else "float32"
        chosen = settings(name, gemm_dtype=gemm_dtype, sample_rate=rate, chunk_bytes=1 << 12)
        head = PartialFC(500, 64, chosen).to(device)
        optimizer = CentreSGD([head.centres], lr=0.01, weight_decay=5e-4)
        given = embeddings.to(device, copy=True).requires_grad_()
        for _ in range(2):
            optimizer.zero_grad()
            loss = head(given, labels.to(device))
            loss.backward()
            optimizer.step()
        assert given.grad is not None
        results.append([loss.detach().cpu(), given.grad.cpu(), head.centres.detach().cpu()])
    for ours, exact in zip(results[1], results[0], strict=True):
        difference = (ours - exact).norm() / exact.norm()
        assert difference < (1e-4 if dtype == "float32" else 6e-2)


@pytest.mark.parametrize("label", [20, -2])
def test_a_label_of_no_class_does_not_pass_unseen(label: int) -> None:
    head = FusedHead(20, DIM, settings("cosface"))
    assert head(torch.randn(2, DIM), torch.tensor([0, label])).isnan()
