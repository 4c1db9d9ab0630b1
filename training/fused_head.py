"""A head that never builds the batch x classes matrix: its loss is computed in pieces.

The loss of a sample is -log sigmoid(z_y - lse), lse the log-sum-exp over all other classes,
which `class_pieces` computes; z_y, with the margin, is a matter of B numbers.

Legend: B samples, S classes present, D embedding.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from training import margins
from training.class_pieces import Pieces, log_sum_exp, target_products
from training.heads import Head, HeadSettings
from training.margin_rules import smoothed, weighted_mean
from training.shard_group import ALONE, ShardGroup

# A step with 20,000 classes, 512-d, batch 256 takes a core 0.24 s in pieces of 0.5 to 2 MiB,
# 0.37 s in pieces of 64 MiB. The GPU's is chosen, not measured: larger than any cache, so that
# a piece is tens of microseconds of work for a dozen launches.
CPU_CHUNK_BYTES, GPU_CHUNK_BYTES = 1 << 21, 1 << 26


class FusedHead(Head):
    """A head that computes its loss in pieces; `partial_fc` adds ranks and sampling to it."""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        settings: HeadSettings,
        group: ShardGroup = ALONE,
    ) -> None:
        """Draw this rank's centres. Raises ConfigError as `Head` does."""
        super().__init__(num_classes, embedding_dim, settings, group.class_range(num_classes))
        self.group = group

    def sampled_rows(self, labels_B: Tensor) -> Tensor | None:
        """Return the classes of this shard that take part (S,), ascending; None: all."""
        return None

    def _pieces(self, labels_B: Tensor, unit_centres: bool) -> Pieces:
        own_B = (labels_B >= self.first) & (labels_B < self.last)
        rows_S = self.sampled_rows(labels_B)
        places_B = labels_B - self.first
        if rows_S is not None:
            places_B = torch.searchsorted(rows_S, places_B)
        default = CPU_CHUNK_BYTES if labels_B.device.type == "cpu" else GPU_CHUNK_BYTES
        bfloat16 = self.settings.gemm_dtype == "bfloat16"
        return Pieces(
            rows_S=rows_S,
            targets_B=torch.where(own_B, places_B, -1),
            unit_centres=unit_centres,
            hard=None,
            sums=self.settings.label_smoothing > 0,
            chunk_bytes=self.settings.chunk_bytes or default,
            gemm_dtype=torch.bfloat16 if bfloat16 else None,
        )

    def forward(
        self, embeddings_BD: Tensor, labels_B: Tensor, weights_B: Tensor | None = None
    ) -> Tensor:
        """Return the loss of `Head.forward`; over ranks, that of the batches of all of them.

        Every rank passes its own batch, all of one size, and gets the same loss. The gradient
        of its embeddings is the number of ranks times the loss's: averaged over ranks, as DDP
        does with the backbone's, it is exactly the loss's. A label of no class makes the loss
        NaN. Label smoothing spreads over the classes that are present.
        """
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            group, rule = self.group, self.rule
            embeddings_BD = group.gather(margins.widen(embeddings_BD))
            labels_B = group.gather_plain(labels_B)
            weights_B = None if weights_B is None else group.gather_plain(weights_B)
            vectors_BD, norms_B = rule.vectors(embeddings_BD)
            pieces = self._pieces(labels_B, rule.unit_centres)
            with torch.no_grad():
                dots_B = group.sum(target_products(vectors_BD, self.centres, pieces)[0])
                if self.training:
                    rule.observe(dots_B, norms_B, labels_B != -1)
            pieces = replace(pieces, hard=rule.hard(dots_B))
            dots_B, centre_norms_B, lse_B, sums_B = log_sum_exp(
                vectors_BD, self.centres, rule.scale(norms_B), pieces
            )
            # Every rank computes what follows alike, so each gives its share of the gradient.
            norms_B = group.shared(norms_B)
            phi_B = rule.target(group.sum(dots_B), norms_B, group.sum(centre_norms_B))
            logits_B = rule.scale(norms_B) * phi_B
            losses_B = -F.logsigmoid(logits_B - group.log_sum_exp(lse_B))
            if self.settings.label_smoothing:
                classes = group.total(pieces.count(self.centres), labels_B.device)
                losses_B = smoothed(
                    losses_B,
                    logits_B,
                    group.sum(sums_B) + logits_B,
                    classes,
                    self.settings.label_smoothing,
                )
            penalty_B = rule.penalty(norms_B)
            if penalty_B is not None:
                losses_B = losses_B + penalty_B
            # Not an error: to look at every batch's labels would stall a GPU.
            strange_B = (labels_B < -1) | (labels_B >= self.num_classes)
            return weighted_mean(losses_B.masked_fill(strange_B, torch.nan), labels_B, weights_B)
