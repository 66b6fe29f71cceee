"""PyTorch's side of the benchmark: MobileFaceNet of MobileNet-V2 style."""

from collections import OrderedDict

from torch import nn

# Expansion, channels, repeats, first stride.
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def unit(channels, features, kernel, stride=1, groups=1):
    padding = (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(channels, features, kernel, stride, padding, 1, groups, False),
        nn.BatchNorm2d(features),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    def __init__(self, channels, features, stride, expansion):
        super().__init__()
        wide = expansion * channels
        self.residual = stride == 1 and channels == features
        self.conv = nn.Sequential(
            unit(channels, wide, 1),
            unit(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, features, 1, bias=False),
            nn.BatchNorm2d(features),
        )

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


class MobileFaceNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = unit(3, 64, 3, 2)
        self.dw_conv = named(
            depthwise=nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu1=nn.ReLU(),
            pointwise=nn.Conv2d(64, 64, 1, bias=False),
            bn2=nn.BatchNorm2d(64),
            relu2=nn.ReLU(),
        )
        blocks, channels = [], 64
        for expansion, features, repeats, stride in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, features, first, expansion))
                channels = features
        self.features = nn.Sequential(*blocks)
        self.conv2 = unit(128, 512, 1)
        depthwise = nn.Conv2d(512, 512, 7, groups=512, bias=False)
        self.gdconv = named(depthwise=depthwise, bn=nn.BatchNorm2d(512))
        self.conv3, self.bn = nn.Conv2d(512, 128, 1), nn.BatchNorm2d(128)

    def forward(self, x):
        x = self.conv2(self.features(self.dw_conv(self.conv1(x))))
        return self.bn(self.conv3(self.gdconv(x))).flatten(1)
