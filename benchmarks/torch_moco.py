"""PyTorch's side of the benchmark: a step of momentum contrast.

Boutros et al. (FG 2023), after He et al. (CVPR 2020): keys shuffled, averaged encoder,
ring queue, margin on the positive. One device, so BatchNorm sees the whole batch.
"""

import copy

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_iresnet import IResNet, images_of, stepping


class MomentumContrast(nn.Module):
    def __init__(self, backbone: IResNet, features: int, queue_size: int):
        super().__init__()
        self.query, self.key = backbone, copy.deepcopy(backbone)
        self.key.requires_grad_(False)
        rows = functional.normalize(torch.randn(queue_size, features))
        self.register_buffer("queue", rows)
        self.cursor = 0

    @torch.no_grad()
    def keys_of(self, positives, momentum: float):
        for average, new in zip(self.key.parameters(), self.query.parameters()):
            average.mul_(momentum).add_(new, alpha=1 - momentum)
        order = torch.randperm(len(positives))
        shuffled = positives[order].contiguous(memory_format=torch.channels_last)
        return functional.normalize(self.key(shuffled))[torch.argsort(order)]

    @torch.no_grad()
    def enqueue(self, keys):
        self.queue[self.cursor : self.cursor + len(keys)] = keys
        self.cursor = (self.cursor + len(keys)) % len(self.queue)

    def forward(self, images, positives, momentum=0.999, margin=0.1, temperature=0.07):
        queries = functional.normalize(self.query(images))
        keys = self.keys_of(positives, momentum)
        positive = (queries * keys).sum(dim=1, keepdim=True) - margin
        negatives = queries @ self.queue.clone().T
        logits = torch.cat([positive, negatives], dim=1) / temperature
        first = torch.zeros(len(logits), dtype=torch.long)
        loss = functional.cross_entropy(logits, first)
        self.enqueue(keys)
        return loss


def training_step(image, positive, depth, width, features, queue_size):
    """Returns a function that trains once on a batch and returns the loss.

    Args:
      image, positive: uint8 [B, S, S, 3].
      depth, width, features: of the IResNet.
      queue_size: a multiple of B.
    """
    torch.manual_seed(0)
    backbone = IResNet(depth, image.shape[1], width, features)
    backbone = backbone.to(memory_format=torch.channels_last)
    model = MomentumContrast(backbone, features, queue_size).train()
    return stepping(model.query, lambda: model(images_of(image), images_of(positive)))
