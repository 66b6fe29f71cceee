"""PyTorch's side of the benchmark: the DR-GAN of `fr_jax.models.dr_gan`.

Channels last, PyTorch's faster layout on a CPU.
"""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_iresnet import images_of
from fr_jax.models.dr_gan.generator import DECODER, FEATURES, TRUNK


class _Crop(nn.Module):
    def forward(self, x):
        return x[:, :, :-1, :-1]


def _trunk(width: float) -> nn.Sequential:
    layers, before = [], 3
    for _, features, stride in TRUNK:
        features = round(features * width)
        if stride == 2:
            layers.append(nn.ZeroPad2d((0, 1, 0, 1)))
        padding = 0 if stride == 2 else 1
        conv = nn.Conv2d(before, features, 3, stride, padding, bias=False)
        layers += [conv, nn.BatchNorm2d(features), nn.ELU()]
        before = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Generator(nn.Module):
    def __init__(self, poses: int, noise: int, width: float, seed: int):
        super().__init__()
        depth = round(FEATURES * width)
        self.encoder, self.shape = _trunk(width), (depth, seed, seed)
        self.fc = nn.Linear(depth + poses + noise, depth * seed * seed)
        layers: list[nn.Module] = []
        before = depth
        for _, features, stride in DECODER:
            last = features is None
            features = 3 if last else round(features * width)
            if stride == 2:
                layers.append(nn.ConvTranspose2d(before, features, 3, 2, bias=False))
                layers.append(_Crop())
            else:
                layers.append(nn.Conv2d(before, features, 3, 1, 1, bias=False))
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(features), nn.ELU()]
            before = features
        self.decoder = nn.Sequential(*layers)

    def forward(self, images, pose, noise):
        codes = torch.cat([self.encoder(images), pose, noise], 1)
        seed = self.fc(codes).view(-1, *self.shape)
        return self.decoder(seed.contiguous(memory_format=torch.channels_last))


def both_steps(batch, num_identities, poses, noise, width):
    """Returns a function that trains the discriminator, then the generator, once.

    Args:
      batch: `image` uint8 [B, S, S, 3], `label` and `pose` [B].
      num_identities, poses: numbers of classes.
      noise: length of the noise code.
      width: factor of the numbers of channels.
    """
    torch.manual_seed(0)
    images = images_of(batch["image"])
    identity = torch.from_numpy(batch["label"]).long()
    pose = torch.from_numpy(batch["pose"]).long()
    generator = Generator(poses, noise, width, images.shape[2] // 16)
    depth, outputs = round(FEATURES * width), num_identities + 1 + poses
    discriminator = nn.Sequential(_trunk(width), nn.Linear(depth, outputs))
    optimizers = {}
    for net in (generator, discriminator):
        net.to(memory_format=torch.channels_last)
        optimizers[net] = torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999))

    def rotate():
        target = torch.randint(poses, (len(images),))
        code = functional.one_hot(target, poses).float()
        return generator(images, code, 2 * torch.rand(len(images), noise) - 1), target

    def classified(logits, target):
        """Returns the loss of logits as real images of the identities in a pose."""
        entropy = functional.cross_entropy(logits[:, :num_identities], identity)
        entropy = entropy + functional.cross_entropy(logits[:, -poses:], target)
        return entropy + _realness(logits[:, num_identities], 1.0)

    def update(net, loss):
        optimizers[net].zero_grad()
        loss.backward()
        optimizers[net].step()

    def both():
        with torch.no_grad():
            fake, _ = rotate()
        real, of_fake = discriminator(images), discriminator(fake)
        of_fake = _realness(of_fake[:, num_identities], 0.0)
        update(discriminator, classified(real, pose) + of_fake)
        discriminator.requires_grad_(False)
        fake, target = rotate()
        loss = classified(discriminator(fake), target)
        update(generator, loss)
        discriminator.requires_grad_(True)
        return loss.item()

    return both


def _realness(logits, target: float):
    return functional.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, target)
    )
