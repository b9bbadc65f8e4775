"""LeNet-5's layers as a CPU computes them fastest, and the swap. Knows nothing of training, data or `model.py`.

Three layers take the places of C1 and S2, of C3, and of C5. They are the same functions of the same parameters, with
the same derivatives of every order, and a training step takes about half the time. What makes them fast holds for a
CPU: on other devices, under autocast and for shapes other than theirs they compute what the plain layers compute. They
know no stride, padding, dilation or groups: `ThinConv2d(6, 16, 5, padding=1)` is a TypeError.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def use_fast_layers(network: nn.Module) -> nn.Module:
    """Put the fast layers, with the network's own parameters, into a LeNet-5; return the network.

    Its `forward` must call `s2` on what `c1` returns: whoever calls this knows that it is a LeNet-5. Unless `c1`, `s2`,
    `c3` and `c5` are the plain layers of LeNet-5, with no option, hook or pruned weight, all stay as they are.
    Afterwards C1 pools, and S2 is the identity; names and order in the state_dict stay.
    """
    layers = {"c1": (PooledConv2d, (1, 6, 5)), "c3": (ThinConv2d, (6, 16, 5)), "c5": (WholeConv2d, (16, 120, 5))}
    plain: dict[str, nn.Module] = {"s2": nn.MaxPool2d(2)}
    fast: dict[str, nn.Module] = {"s2": nn.Identity()}
    with torch.device("meta"):  # so that no weights are drawn
        for name, (kind, size) in layers.items():
            plain[name], fast[name] = nn.Conv2d(*size), kind(*size)
    if all(_is_like(getattr(network, name, None), layer) for name, layer in plain.items()):
        for name, layer in fast.items():
            old = getattr(network, name)
            for key, parameter in old.named_parameters():
                setattr(layer, key, parameter)
            setattr(network, name, layer.train(old.training))
    return network


def _is_like(layer: object, plain: nn.Module) -> bool:
    """Whether all that makes a layer, hooks among it, equals the plain layer's, but for the parameters' values."""
    if type(layer) is not type(plain) or vars(layer).keys() != vars(plain).keys():
        return False
    ours, theirs = ([(k, type(p), p.shape) for k, p in each.named_parameters()] for each in (layer, plain))
    rest = vars(plain).keys() - {"_parameters", "training"}
    return ours == theirs and all(vars(layer)[key] == vars(plain)[key] for key in rest)


class _FastConv2d(nn.Conv2d):
    """A convolution of square kernels with bias; stride 1, no padding."""

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, (kernel_size, kernel_size))

    def fits(self, images: Tensor) -> bool:
        """Whether the fast way is open: a batch of images on a CPU, without autocast."""
        batch = images.ndim == 4 and images.shape[1] == self.in_channels
        return batch and images.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class PooledConv2d(_FastConv2d):
    """A convolution and 2x2 max pooling behind it, as one: (B, C, H, W) -> (B, K, (H-k+1)//2, (W-k+1)//2).

    A CPU cannot vectorize the pooling of maps of few channels. So, of the four values of a pooling window, left and
    right become two channels of one convolution of stride 2, whose kernels are the kernel itself and the kernel moved
    right by a pixel; upper and lower become two images, the second moved up by a pixel. For one channel and maps of
    even height and width.
    """

    def forward(self, images: Tensor) -> Tensor:
        even = all((side - self.kernel_size[0]) % 2 == 1 for side in images.shape[2:])  # the maps' height and width
        if not self.fits(images) or self.in_channels != 1 or not even:
            return F.max_pool2d(super().forward(images), 2)
        batch, _, height, width = images.shape
        shifted = torch.cat([images[:, :, :-1], images[:, :, 1:]], 1).reshape(2 * batch, 1, height - 1, width)
        weight = self.weight.squeeze(1)  # so that conv2d sees the plain layout, whatever memory format the weight has
        kernels = torch.cat([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))]).unsqueeze(1)  # (2*K, 1, k, k+1)
        x = F.conv2d(shifted, kernels, torch.cat([self.bias, self.bias]), stride=2)  # (2*B, 2*K, H', W')
        # the four values as a 2x2 image whose channels are all that is left: memory as it lies, in channels_last
        windows = x.reshape(batch, 2, 2, x.shape[1:].numel() // 2).permute(0, 3, 1, 2)  # (B, K*H'*W', 2, 2)
        maps = F.max_pool2d(windows, 2)  # (B, K*H'*W', 1, 1)
        # not `maps.view(...)`: the gradient would come back in another layout and be copied twice
        return maps.permute(0, 2, 3, 1).reshape(batch, self.out_channels, *x.shape[2:])


class ThinConv2d(_FastConv2d):
    """A convolution of few input channels, whose gradients take two thirds of the time; for images of even width."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.fits(images) or images.shape[3] % 2:
            return super().forward(images)
        # in channels_last oneDNN is fastest; in these words since vmap knows no `contiguous(memory_format=...)`
        images, weight = (x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in (images, self.weight))
        return _ThinConvolution.apply(images, weight, self.bias)


class _ThinConvolution(torch.autograd.Function):
    """The gradient of the images is a convolution with C output channels, and a vector register holds 16 of them.

    For the 6 of LeNet-5's C3 most of it is idle. So two neighbouring columns become 2*C channels of one convolution of
    stride 2. Its kernels are one column wider, hence a sixth of them zeros, but it takes 40 % less time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(images, weight, bias)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        context.save_for_backward(*inputs[:2])
        context.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(context: Any, of_images: Tensor, of_weight: Tensor, of_bias: Tensor) -> Tensor:
        images, weight = context.saved_tensors
        return F.conv2d(of_images, weight) + F.conv2d(images, of_weight, of_bias)

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

    Both are multiplied in the order of channels_last, in which images come from C3 and S4 and need not be copied.
    """

    def forward(self, images: Tensor) -> Tensor:
        if not self.fits(images) or images.shape[2:] != self.weight.shape[2:]:
            return super().forward(images)
        rows, weight = (values.permute(0, 2, 3, 1).flatten(1) for values in (images, self.weight))
        return F.linear(rows, weight, self.bias)[:, :, None, None]
