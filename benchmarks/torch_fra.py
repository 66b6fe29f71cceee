"""PyTorch's side of the benchmark: the network and losses of `fr_jax.models.fra`.

Channels last, PyTorch's faster layout on a CPU.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional

_ENCODER = (1, 4, 16, 64, 128, 256, 512)
# (upsampling factor, channels in, channels out, kernel, stride, padding)
_DECODER = (
    (4, 512, 256, 2, 3, 2),
    (3, 256, 128, 3, 1, 0),
    (2, 128, 64, 3, 1, 1),
    (2, 64, 16, 3, 1, 1),
    (2, 16, 4, 3, 1, 1),
    (2, 4, 1, 3, 1, 1),
)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        parts = [nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout)]
        parts += [nn.Linear(width, width), nn.Dropout(dropout)]
        self.linear = nn.Sequential(*parts)

    def forward(self, x):
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.linear(self.second(x))


class Fra(nn.Module):
    def __init__(self, dropout: float = 0.4, vit_dropout: float = 0.05):
        super().__init__()
        pairs = itertools.pairwise(_ENCODER)
        convs = [nn.Conv2d(before, after, 3, 1, 1) for before, after in pairs]
        self.encoder = nn.ModuleList(convs)
        self.decoder = nn.ModuleList(nn.Conv2d(*rest) for _, *rest in _DECODER)
        self.drop, self.drop_vit = nn.Dropout(dropout), nn.Dropout(vit_dropout)
        self.norm, self.project = nn.LayerNorm(1024), nn.Linear(64, 256)
        self.first = nn.Parameter(torch.randn(1, 1, 256))
        self.positions = nn.Parameter(torch.randn(1, 17, 256))
        self.layers = nn.Sequential(*(_Layer(256, 4, vit_dropout) for _ in range(4)))
        self.head = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 512))

    def forward(self, maps, embedding):
        x = maps
        for conv in self.encoder:
            x = functional.max_pool2d(functional.relu(self.drop(conv(x))), 2)
        code = x.flatten(1)
        for (factor, *_), conv in zip(_DECODER, self.decoder):
            x = conv(functional.interpolate(x, scale_factor=factor))
            if conv is not self.decoder[-1]:
                x = functional.relu(self.drop(x))
        # [B, 32, 32] -> [B, 16 tokens, 64]
        image = self.norm(torch.cat([code, embedding], 1)).view(-1, 4, 8, 4, 8)
        tokens = self.project(image.transpose(2, 3).reshape(-1, 16, 64))
        first = self.first.expand(len(tokens), 1, 256)
        tokens = self.drop_vit(torch.cat([first, tokens], 1) + self.positions)
        return self.head(self.layers(tokens)[:, 0]), x


def training_step(batch):
    """Returns a function that trains the network once.

    Args:
      batch: as of `systems.fra`, NumPy.
    """
    torch.manual_seed(0)
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    maps = tensors.pop("landmarks").permute(0, 3, 1, 2).float()
    net = Fra().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    triplet = nn.TripletMarginLoss(margin=10.0)

    def step():
        generated, logits = net(maps, tensors["embedding"])
        loss = functional.binary_cross_entropy_with_logits(logits, maps)
        for name in ("identity", "pose", "expression"):
            negative = tensors[f"negative_{name}"]
            loss = loss + triplet(generated, tensors["target"], negative)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
