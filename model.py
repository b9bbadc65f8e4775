"""The three networks: images (B, 1, 32, 32) float32 -> logits (B, classes) float32, no softmax.

Trainable parameters: LeNet-5 61,706; Custom-MLP 61,514; LeNet-5 with batch normalization 62,158.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """LeNet-5 after LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.

    The layers keep the paper's names and sizes. As in most later versions, C3 sees all six maps of S2 (the paper
    connects them by a table), S2 and S4 are max pooling, the activation is ReLU, and the output is linear.

    With `batch_norm`, batch normalization (Ioffe and Szegedy, 2015) follows C1, C3, C5 and F6; that of C1 and C3 comes
    after the pooling, on a quarter of the values. Without it the order is no matter, since max(relu(x)) = relu(max(x)).
    """

    def __init__(self, batch_norm: bool = False, classes: int = 10) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)  # 6 * (1*5*5 + 1)       =    156 parameters
        self.s2 = nn.MaxPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)  # 16 * (6*5*5 + 1)     =  2,416
        self.s4 = nn.MaxPool2d(2)
        self.c5 = nn.Conv2d(16, 120, 5)  # 120 * (16*5*5 + 1) = 48,120
        self.f6 = nn.Linear(120, 84)  # 84 * (120 + 1)        = 10,164
        self.f7 = nn.Linear(84, classes)  # 10 * (84 + 1)     =    850, for ten classes
        self.norm1 = nn.BatchNorm2d(6) if batch_norm else nn.Identity()  # 2 * 6 = 12
        self.norm3 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()  # 2 * 16 = 32
        self.norm5 = nn.BatchNorm1d(120) if batch_norm else nn.Identity()  # 2 * 120 = 240
        self.norm6 = nn.BatchNorm1d(84) if batch_norm else nn.Identity()  # 2 * 84 = 168

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.s2(self.c1(images))))  # (B, 6, 28, 28) -> (B, 6, 14, 14)
        x = F.relu(self.norm3(self.s4(self.c3(x))))  # (B, 16, 10, 10) -> (B, 16, 5, 5)
        x = F.relu(self.norm5(self.c5(x).flatten(1)))  # (B, 120, 1, 1) -> (B, 120)
        x = F.relu(self.norm6(self.f6(x)))  # (B, 84)
        return self.f7(x)  # (B, classes)


class CustomMLP(nn.Module):
    """An MLP of LeNet-5's size, to 0.4 % by its first width, 44; from 120 on it is LeNet-5's own classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.f1 = nn.Linear(32 * 32, 44)  # 44 * (1024 + 1)  = 45,100 parameters
        self.f2 = nn.Linear(44, 120)  # 120 * (44 + 1)       =  5,400
        self.f3 = nn.Linear(120, 84)  # 84 * (120 + 1)       = 10,164
        self.f4 = nn.Linear(84, classes)  # 10 * (84 + 1)    =    850, for ten classes

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)  # (B, 1024)
        for layer in (self.f1, self.f2, self.f3):
            x = F.relu(layer(x))  # (B, 44), (B, 120), (B, 84)
        return self.f4(x)  # (B, classes)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet5,
    "mlp": CustomMLP,
    "lenet_bn": partial(LeNet5, batch_norm=True),
}


def build(name: str, classes: int) -> nn.Module:
    """A network of MODELS, which is told of the classes where there are not ten, if it takes them."""
    tell = classes != 10 and "classes" in signature(MODELS[name]).parameters
    return MODELS[name](classes=classes) if tell else MODELS[name]()


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
