"""What learns, and one step of it: the net, its losses, their optimisers.

Over ranks the net's gradient is averaged by DistributedDataParallel; the head is not wrapped, its
centres being spread over ranks. Losses over the batches of all ranks send back gradients times
the number of ranks (`FusedHead.forward`), so that the average is exact; distillation compares
within a rank's batch, and the average over ranks is what is meant.

Legend: B samples of a rank's batch, K batches of a step; C, H, W of a crop; D embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.backbone import build_backbone
from training.distill import Distillation
from training.ema import WeightAverage
from training.folded_norms import folded_norms, restore_statistics
from training.keyed_random import key_of
from training.loader import Batch
from training.loss_scale import LossScale
from training.metric_losses import CenterLoss, MetricLoss
from training.optimizers import build_centre_optimizer, build_optimizer, set_rates
from training.partial_fc import PartialFC
from training.pretrained import load_weights
from training.ranks import Ranks
from training.settings import TrainSettings

_FIRST_WEIGHTS, _STEP = 31, 32  # what a key is for: training.keyed_random

# Its name since torch 2.13, which warns of the old one, and before.
_NAMES = signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in _NAMES)
_NO_SYNC: dict[str, Any] = {_SYNC_BUFFERS: False}

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainedNet(nn.Module):
    """What DistributedDataParallel wraps: the backbone, and a map to the teacher, if any."""

    def __init__(self, backbone: nn.Module, distillation: Distillation | None) -> None:
        """Keep the parts."""
        super().__init__()
        self.backbone, self.distillation = backbone, distillation

    def forward(self, images_BCHW: Tensor, weights_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return B x D embeddings, and the loss beside the teacher if there is one."""
        embeddings_BD: Tensor = self.backbone(images_BCHW)
        if self.distillation is None:
            return embeddings_BD, None
        return embeddings_BD, self.distillation(embeddings_BD, images_BCHW, weights_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step found; numbers on the device, so that nobody waits for them."""

    losses: dict[str, Tensor]  # float64 scalars by term; their sum is the loss
    grad_norm: Tensor  # of the net, before it was cut
    overflowed: bool  # float16 alone: nothing was changed


class Learner:
    """The net and its losses on one rank, in training mode."""

    def __init__(
        self,
        settings: TrainSettings,
        people: int,
        ranks: Ranks,
        *,
        first_images: Iterable[Tensor] | None = None,
    ) -> None:
        """Draw first weights from the seed, or load them; raises as `load_weights` does.

        ``first_images`` are batches to take lost statistics from, where weights come from an ONNX
        file (`folded_norms`). Without them a state is going to be loaded: nothing else is.
        """
        self.settings, self.ranks = settings, ranks
        self._autocast = DTYPES.get(settings.precision)
        device, dim = ranks.device, settings.backbone.dim
        torch.manual_seed(key_of(settings.seed, _FIRST_WEIGHTS))
        self.backbone = _backbone(settings, device, first_images)
        self._build_losses(people, dim)
        self.net = TrainedNet(self.backbone, self.distillation).to(device).train()
        self.optimizer = build_optimizer(self.net, settings.optimizer)
        self.centre_optimizer = None
        if self.head is not None:
            self.centre_optimizer = build_centre_optimizer(
                self.head.centres, settings.centres, settings.optimizer
            )
        self.scale = LossScale() if settings.precision == "float16" else None
        self.average: WeightAverage | None = None
        if settings.ema_decay is not None and ranks.first:
            self.average = WeightAverage(self.backbone, settings.ema_decay)
        self._trained = [p for p in self.net.parameters() if p.requires_grad]
        if settings.compile:
            self.backbone.compile()
        self._called: nn.Module = self.net
        if ranks.size > 1:
            self._called = DistributedDataParallel(
                self.net,
                # Running statistics are no part of a training step; rank 0's are those kept.
                gradient_as_bucket_view=True,
                **_NO_SYNC,
            )

    def _build_losses(self, people: int, dim: int) -> None:
        settings, group, device = self.settings, self.ranks.group, self.ranks.device
        self.head: PartialFC | None = None
        self.metric: MetricLoss | None = None
        self.center: CenterLoss | None = None
        self.distillation: Distillation | None = None
        self.terms = nn.ModuleDict()  # what has a state and is neither backbone nor head
        if settings.head is not None:
            self.head = PartialFC(people, dim, settings.head, group).to(device)
        if settings.metric is not None:
            self.metric = MetricLoss(settings.metric, group)
        if settings.center is not None:
            self.center = CenterLoss(people, dim, settings.center, group).to(device)
            self.terms["center"] = self.center
        if settings.distillation is not None:
            self.distillation = Distillation(settings.distillation, dim)
            self.terms["distillation"] = self.distillation

    def step(self, batches: Sequence[Batch], number: int, factor: float) -> StepResult:
        """Take step ``number`` (from 0) on K batches, with rates times ``factor``."""
        optimizers = [o for o in (self.optimizer, self.centre_optimizer) if o is not None]
        set_rates(optimizers, factor)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        for place, (batch, share) in enumerate(zip(batches, self._shares(batches), strict=True)):
            # Drop path, dropout and masks draw from torch's generator. Keyed anew at each batch,
            # it has no state that a checkpoint would have to keep, and that would not fit
            # another number of ranks.
            torch.manual_seed(key_of(self.settings.seed, _STEP, number, place, self.ranks.rank))
            last = place == len(batches) - 1
            with contextlib.nullcontext() if last else self._no_sync():
                terms = self._backward(batch, share, 1.0 / len(batches))
            for name, value in terms.items():
                losses[name] = losses.get(name, 0.0) + value
        overflowed = self._overflowed()
        grad_norm = torch.nn.utils.get_total_norm(self._gradients())
        if not overflowed:
            if self.settings.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(
                    self._trained, self.settings.clip_norm, grad_norm
                )
            for optimizer in optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update(number + 1)
        if self.scale is not None:
            self.scale.update(overflowed)
        return StepResult(losses=losses, grad_norm=grad_norm, overflowed=overflowed)

    def _backward(self, batch: Batch, share: float, part: float) -> dict[str, Tensor]:
        """Add a batch's gradients; return its losses as they count in the step's."""
        device = self.ranks.device
        images_BCHW = batch.images(device)
        if not self.settings.channels_last:
            images_BCHW = images_BCHW.contiguous()
        labels_B = batch.label_B.to(device, non_blocking=True)
        weights_B = batch.weight_B.to(device, non_blocking=True)
        with torch.autocast(device.type, self._autocast, enabled=self._autocast is not None):
            embeddings_BD, taught = self._called(images_BCHW, weights_B)
        terms: dict[str, Tensor] = {}
        if self.head is not None:
            terms["head"] = share * self.head(embeddings_BD, labels_B, weights_B)
        if self.metric is not None:
            loss = self.metric(embeddings_BD, labels_B, weights_B)
            terms["metric"] = part * self.settings.metric_weight * loss
        if self.center is not None:
            terms["center"] = share * self.center(embeddings_BD, labels_B, weights_B)
        if taught is not None:
            terms["distillation"] = part * taught
        total = torch.stack(list(terms.values())).sum()
        torch.autograd.backward(total if self.scale is None else total * self.scale.scale)
        found = {name: value.detach().double() for name, value in terms.items()}
        if taught is not None and self.ranks.size > 1:  # the only one that ranks do not share
            every = self.ranks.group.gather_plain(found["distillation"][None])
            found["distillation"] = every.mean()
        return found

    def _shares(self, batches: Sequence[Batch]) -> list[float]:
        """Return what part each batch has of the step's weight, over all ranks.

        A head's loss is a weighted mean: with these the step's is that of one large batch, even
        where crops are missing.
        """
        if len(batches) == 1:
            return [1.0]
        own = [float(batch.weight_B.double().sum()) for batch in batches]
        weights = self.ranks.row_sums(own)
        total = sum(weights)
        return [weight / total if total else 1.0 / len(batches) for weight in weights]

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Keep gradients on this rank until the step's last batch."""
        if isinstance(self._called, DistributedDataParallel):
            manager: contextlib.AbstractContextManager[None] = self._called.no_sync()
            return manager
        return contextlib.nullcontext()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._trained if p.grad is not None]

    def _overflowed(self) -> bool:
        """Take the loss's scale off all gradients; return whether any rank's are not finite."""
        if self.scale is None:
            return False
        gradients = self._gradients()
        if self.head is not None and self.head.centres.grad is not None:
            gradients.append(self.head.centres.grad)
        return self.ranks.any(bool(self.scale.unscale(gradients)))


def _backbone(
    settings: TrainSettings, device: torch.device, first_images: Iterable[Tensor] | None
) -> nn.Module:
    """Return the net with its first weights where it is trained."""
    net = build_backbone(settings.backbone)
    loaded = settings.weights is not None and first_images is not None
    if settings.weights is not None and loaded:
        load_weights(net, settings.weights)
    order = torch.channels_last if settings.channels_last else torch.contiguous_format
    net.to(device=device).to(memory_format=order)  # type: ignore[call-overload]
    if first_images is not None and loaded and folded_norms(net):
        restore_statistics(net, first_images)
    return net
