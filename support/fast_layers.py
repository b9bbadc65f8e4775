"""LeNet-5's layers as a CPU computes them fastest, and the swap. Knows nothing of training, data or `model.py`.

`use_fast_layers` puts three layers in the places of C1 and S2, of C3 and of C5. They compute the same function of the
same parameters, with the same derivatives of any order, and a training step takes about half the time. What makes them
fast holds for a CPU only: on other devices, under autocast and for shapes other than theirs they compute what the
plain layers compute. They take no options but those named: `padding=1` is a TypeError.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def use_fast_layers(network: nn.Module) -> nn.Module:
    """Put fast layers, with the same parameters under the same names, into a LeNet-5; return the network.

    `network` must use `c1`, `s2`, `c3` and `c5` one behind the other as LeNet-5 does; the caller knows that. If one of
    them is anything but the plain layer of LeNet-5 (another kind, size or option, a hook, a pruned or parametrized
    weight), all stay as they are. Afterwards C1 pools, and S2 is the identity.
    """
    plain = {"c1": nn.Conv2d(1, 6, 5, device="meta"), "s2": nn.MaxPool2d(2)}
    plain |= {"c3": nn.Conv2d(6, 16, 5, device="meta"), "c5": nn.Conv2d(16, 120, 5, device="meta")}
    if not all(_equal(getattr(network, name, None), layer) for name, layer in plain.items()):
        return network
    fast = {"c1": PooledConv2d(1, 6, 5, "meta"), "s2": nn.Identity()}  # "meta": nothing is drawn for their weights
    fast |= {"c3": ThinConv2d(6, 16, 5, "meta"), "c5": WholeConv2d(16, 120, 5, "meta")}
    for name, layer in fast.items():
        old = getattr(network, name)
        for key, parameter in old.named_parameters():
            setattr(layer, key, parameter)
        setattr(network, name, layer.train(old.training))
    return network


def _equal(layer: nn.Module | None, plain: nn.Module) -> bool:
    """Whether a layer is of the same kind with the same attributes, hooks among them; only parameters' values differ."""
    if type(layer) is not type(plain) or vars(layer).keys() != vars(plain).keys():
        return False
    kinds = [[(k, type(p), p.shape) for k, p in one.named_parameters()] for one in (layer, plain)]
    others = vars(plain).keys() - {"_parameters", "training"}
    return kinds[0] == kinds[1] and all(vars(layer)[key] == vars(plain)[key] for key in others)


class _FastConv2d(nn.Conv2d):
    """A square convolution of stride 1 with bias, no padding, dilation or groups."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, device: str | None = None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, device=device)

    def fits(self, images: Tensor) -> bool:
        """Whether the fast way is open: a batch of this layer's channels on a CPU, without autocast."""
        channels = images.shape[1] if images.ndim == 4 else None
        return channels == self.in_channels and images.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class PooledConv2d(_FastConv2d):
    """A convolution and 2x2 max pooling behind it, as one: images (B, 1, H, W) -> (B, K, (H-k+1)//2, (W-k+1)//2).

    The pooling of maps of few channels is not vectorized on a CPU. So, of the four values of a pooling window, left and
    right become two channels of one convolution of stride 2, whose kernels are the kernel itself and the kernel moved
    right by a pixel; upper and lower become two images, the second moved up by a pixel. For maps of even size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, device: str | None = None) -> None:
        if in_channels != 1:
            raise ValueError(f"PooledConv2d takes images of one channel, not of {in_channels}")
        super().__init__(in_channels, out_channels, kernel_size, device)

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = (size - self.kernel_size[0] + 1 for size in images.shape[-2:])  # of the maps
        if not self.fits(images) or rows < 2 or columns < 2 or rows % 2 or columns % 2:
            return F.max_pool2d(super().forward(images), 2)
        batch, _, height, width = images.shape
        both = torch.cat([images[:, :, :-1], images[:, :, 1:]], 1).reshape(2 * batch, 1, height - 1, width)
        weight = self.weight.squeeze(1)  # so that conv2d sees the plain layout, whatever memory format the weight has
        kernels = torch.cat([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))]).unsqueeze(1)  # (2*K, 1, k, k+1)
        x = F.conv2d(both, kernels, torch.cat([self.bias, self.bias]), stride=2)  # (2*B, 2*K, rows/2, columns/2)
        count, (height, width) = self.out_channels, x.shape[2:]
        # the four values as a 2x2 image whose channels are all that is left: memory as it lies, in channels_last
        windows = x.reshape(batch, 2, 2, count * height * width).permute(0, 3, 1, 2)
        maps = F.max_pool2d(windows, 2)  # (B, K*H'*W', 1, 1)
        # not `maps.view(...)`: the gradient would come back in another layout and be copied twice
        return maps.permute(0, 2, 3, 1).reshape(batch, count, height, width)


class ThinConv2d(_FastConv2d):
    """A convolution of few input channels, whose gradient takes two thirds of the time; for images of even width.

    Images and weights are handed on in channels_last, in which oneDNN computes these convolutions fastest.
    """

    def forward(self, images: Tensor) -> Tensor:
        if not self.fits(images) or images.shape[3] % 2:
            return super().forward(images)
        images, weight = (x.contiguous(memory_format=torch.channels_last) for x in (images, self.weight))
        return _ThinConvolution.apply(images, weight, self.bias)


class _ThinConvolution(torch.autograd.Function):
    """The gradient of the images is a convolution with C output channels, and a vector register holds 16 of them.

    For the 6 of LeNet-5's C3 most of it is idle. So two neighbouring columns become 2*C channels of one convolution of
    stride 2. Its kernels are one column wider, hence a sixth of them zeros, but it takes 40 % less time.
    """

    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(images, weight, bias)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        context.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images, weight = context.saved_tensors
        batch, channels, height, width = images.shape
        size = weight.shape[-1]
        kernels = F.pad(weight, (1, 1)).unfold(3, size + 1, 1).flip(2, 4)  # (K, C, k, 2, k+1), turned around
        kernels = kernels.permute(3, 1, 0, 2, 4).reshape(2 * channels, -1, size, size + 1)  # even columns first
        columns = F.conv2d(gradient.contiguous(), kernels, stride=(1, 2), padding=size - 1)
        columns = columns.view(batch, 2, channels, height, width // 2)
        of_images = columns.permute(0, 2, 3, 4, 1).reshape(images.shape)
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient, images, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True]
        )
        return of_images, of_weight, of_bias


class WholeConv2d(_FastConv2d):
    """A convolution that sees its whole input at once, so a matrix product: (B, C, k, k) -> (B, K, 1, 1).

    Both are multiplied in the order of channels_last, in which the images come from C3 and S4: they are not copied.
    """

    def forward(self, images: Tensor) -> Tensor:
        if not self.fits(images) or tuple(images.shape[2:]) != self.kernel_size:
            return super().forward(images)
        rows, weight = (values.permute(0, 2, 3, 1).flatten(1) for values in (images, self.weight))
        return F.linear(rows, weight, self.bias)[:, :, None, None]
