"""PyTorch's side of the benchmark: IResNet-50 and ArcFace, channels last."""

import math

import torch
from torch import nn
from torch.nn import functional

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3)}


class Block(nn.Module):
    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, features, 3, 1, 1, bias=False),
            nn.BatchNorm2d(features),
            nn.PReLU(features),
            nn.Conv2d(features, features, 3, stride, 1, bias=False),
            nn.BatchNorm2d(features),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels != features:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, features, 1, stride, bias=False),
                nn.BatchNorm2d(features),
            )

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


class IResNet(nn.Module):
    def __init__(
        self, depth: int = 50, size: int = 112, width: float = 1.0, features: int = 512
    ):
        super().__init__()
        channels = first = round(64 * width)
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
        ]
        for stage, blocks in enumerate(STAGES[depth]):
            for index in range(blocks):
                layers.append(Block(channels, first << stage, 2 if index == 0 else 1))
                channels = first << stage
        layers += [nn.BatchNorm2d(channels), nn.Flatten()]
        layers += [nn.Linear(channels * math.ceil(size / 16) ** 2, features)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm1d(features))

    def forward(self, x):
        return self.layers(x)


class ArcFace(nn.Module):
    """Backbone, prototypes and the loss of one batch."""

    def __init__(self, classes: int):
        super().__init__()
        self.backbone = IResNet()
        self.prototypes = nn.Parameter(torch.randn(classes, 512) * 0.01)

    def forward(self, images, labels):
        embeddings = functional.normalize(self.backbone(images))
        cosines = functional.linear(embeddings, functional.normalize(self.prototypes))
        rows = torch.arange(len(labels))
        target = cosines[rows, labels].clamp(-1 + 1e-7, 1 - 1e-7)
        moved = torch.cos(torch.acos(target) + 0.5)  # the margin
        logits = cosines.index_put((rows, labels), moved)
        return functional.cross_entropy(64.0 * logits, labels)


def images_of(batch, scale: float = 127.5):
    """Returns scaled NCHW images in channels-last memory, from uint8 NHWC."""
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub(127.5).div(scale)


def stepping(trained: nn.Module, loss_of):
    """Returns a function that takes a step of SGD and returns the loss."""
    optimizer = torch.optim.SGD(
        trained.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
    )

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def training_step(images, labels, classes: int):
    """Returns a function that trains once on a batch and returns the loss."""
    torch.manual_seed(0)
    model = ArcFace(classes).to(memory_format=torch.channels_last).train()
    labels = torch.from_numpy(labels).long()
    return stepping(model, lambda: model(images_of(images), labels))


def embed(model: nn.Module, images, batch_size: int, scale: float = 127.5):
    """Returns a function: nothing -> unit embeddings [N, D] of uint8 images."""
    model = model.to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def run():
        batches = images.reshape(-1, batch_size, *images.shape[1:])
        rows = [model(images_of(batch, scale)) for batch in batches]
        return functional.normalize(torch.cat(rows)).numpy()

    return run
