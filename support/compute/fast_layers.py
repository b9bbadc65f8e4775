"""LeNet-5's layers as a CPU computes them fastest: the same functions of the same parameters, in half the time.

Three layers take the places of C1 with S2, of C3, and of C5, while an epoch is trained and tested. Knows nothing of
training, data or `model.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.compute.layer_table import operations

# without initial values: drawing them would move the random generator of whoever imports this
C1, C3, C5 = (nn.utils.skip_init(nn.Conv2d, *sizes) for sizes in ((1, 6, 5), (6, 16, 5), (16, 120, 5)))
PLAIN = {"c1": C1, "s2": nn.MaxPool2d(2), "c3": C3, "c5": C5}


@contextmanager
def fast_layers_in(*networks: nn.Module) -> Iterator[None]:
    """Within the block, those of the networks that are a LeNet-5 on a CPU compute with the fast layers.

    With any other layer, hook or pruned weight, or a `forward` that hands what C1 returns to anything but S2, a network
    stays as it is. Only the classes of the layers change, as those of PyTorch's lazy layers do.
    """
    fast = {"c1": PooledConv2d, "s2": nn.Identity, "c3": ThinConv2d, "c5": WholeConv2d}
    known = [network for network in networks if _is_lenet(network)]
    try:
        for network in known:
            for name, kind in fast.items():
                getattr(network, name).__class__ = kind
        yield
    finally:
        for network in known:
            for name, plain in PLAIN.items():
                getattr(network, name).__class__ = type(plain)


def _is_lenet(network: nn.Module) -> bool:
    """Whether the layers are the plain ones, and `forward` hands all that C1 returns to S2, and S2 nothing else."""
    layers = dict(network.named_children())
    if any(name not in layers or _made_of(layers[name]) != _made_of(plain) for name, plain in PLAIN.items()):
        return False
    calls = operations(network)
    users = {user for call in calls if call.target == "0.c1" for user in call.users}
    return bool(users) and users == {call for call in calls if call.target == "0.s2"}


def _made_of(layer: nn.Module) -> tuple[object, ...]:
    """All that makes a layer, hooks among it, but for the parameters' values and the mode."""
    parameters = [(name, type(each), each.shape, each.device) for name, each in layer.named_parameters()]
    return type(layer), parameters, {key: vars(layer)[key] for key in vars(layer).keys() - {"_parameters", "training"}}


def _fits(images: Tensor, *shape: int) -> bool:
    """Whether images are of LeNet-5's own shape, and without autocast, which casts what a plain convolution gets."""
    return images.shape[1:] == shape and not torch.is_autocast_enabled("cpu")


class PooledConv2d(nn.Conv2d):
    """C1 and S2 as one, a convolution and its 2x2 max pooling: (B, 1, 32, 32) -> (B, 6, 14, 14).

    A CPU cannot vectorize the pooling of maps of few channels. Here a stride-2 convolution with the kernel and its copy
    shifted right gives both columns of a 2x2 window as channels; the image and its copy shifted up give both rows.
    """

    bias: Tensor

    def forward(self, images: Tensor) -> Tensor:
        if not _fits(images, 1, 32, 32):
            return F.max_pool2d(super().forward(images), 2)
        batch = len(images)
        rows = torch.cat([images[:, :, :-1], images[:, :, 1:]], 1).reshape(2 * batch, 1, 31, 32)
        weight = self.weight.squeeze(1)  # so that conv2d sees the plain layout, whatever memory format the weight has
        kernels = torch.cat([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))]).unsqueeze(1)  # (12, 1, 5, 6)
        x = F.conv2d(rows, kernels, torch.cat([self.bias, self.bias]), stride=2)  # (2*B, 12, 14, 14)
        # the four values as a 2x2 image whose channels are all that is left: memory as it lies, in channels_last
        windows = x.reshape(batch, 2, 2, 6 * 14 * 14).permute(0, 3, 1, 2)
        maps = F.max_pool2d(windows, 2)  # (B, 6*14*14, 1, 1)
        # not `maps.view(...)`: the gradient would come back in another layout and be copied twice
        return maps.permute(0, 2, 3, 1).reshape(batch, 6, 14, 14)


class ThinConv2d(nn.Conv2d):
    """C3, (B, 6, 14, 14) -> (B, 16, 10, 10): few input channels, whose gradients take two thirds of its time."""

    def forward(self, images: Tensor) -> Tensor:
        if not _fits(images, 6, 14, 14):
            return super().forward(images)
        images, weight = (x.contiguous(memory_format=torch.channels_last) for x in (images, self.weight))
        return _ThinConvolution.apply(images, weight, self.bias)


class _ThinConvolution(torch.autograd.Function):
    """The images' gradient is a convolution with 6 output channels, where a vector register holds 16.

    So two neighbouring columns become 12 channels of one convolution of stride 2. Its kernels are one column wider,
    hence a sixth of them zeros, but it takes 40 % less time.
    """

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        context.save_for_backward(images, weight)
        return F.conv2d(images, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images, weight = context.saved_tensors
        kernels = F.pad(weight, (1, 1)).unfold(3, 6, 1).flip(2, 4)  # (16, 6, 5, 2, 6), turned around
        kernels = kernels.permute(3, 1, 0, 2, 4).reshape(12, 16, 5, 6)  # even columns first
        columns = F.conv2d(gradient.contiguous(), kernels, stride=(1, 2), padding=4)  # (B, 12, 14, 7)
        of_images = columns.view(-1, 2, 6, 14, 7).permute(0, 2, 3, 4, 1).reshape(images.shape)
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient, images, weight, [16], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True]
        )
        return of_images, of_weight, of_bias


class WholeConv2d(nn.Conv2d):
    """C5, whose kernels see the whole image, as a matrix product: (B, 16, 5, 5) -> (B, 120, 1, 1).

    Both are multiplied in the order of channels_last, in which images come from C3 and S4 and need not be copied.
    """

    def forward(self, images: Tensor) -> Tensor:
        if not _fits(images, 16, 5, 5):
            return super().forward(images)
        rows, weight = (values.permute(0, 2, 3, 1).flatten(1) for values in (images, self.weight))
        return F.linear(rows, weight, self.bias)[:, :, None, None]
