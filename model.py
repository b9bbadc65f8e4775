"""The three networks: images (B, 1, 32, 32) float32 -> logits (B, 10) float32, no softmax.

Trainable parameters: LeNet-5 61,706; Custom-MLP 61,514; LeNet-5 with batch normalization 62,158. Each network asserts
its count as it is built.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class PooledConv2d(nn.Conv2d):
    """A convolution and 2x2 max pooling behind it, as one: images (B, 1, H, W) -> (B, K, H', W').

    The same function as `F.max_pool2d(F.conv2d(images, weight, bias), 2)` in half its time on a CPU, where pooling maps
    of few channels cannot be vectorized. Of the four values of a pooling window, left and right become two channels of
    one convolution of stride 2, whose kernels are the kernel itself and the kernel moved right by a pixel; upper and
    lower become two images, the second moved up by a pixel.
    For one input channel, stride 1, no padding, and maps of even height and width.
    """

    def forward(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        both = torch.cat([images[:, :, :-1], images[:, :, 1:]], 1).reshape(2 * batch, 1, height - 1, width)
        weight = self.weight.squeeze(1)  # so that conv2d sees the plain layout, whatever memory format the weight has
        kernels = torch.cat([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))]).unsqueeze(1)  # (2*K, 1, k, k+1)
        x = F.conv2d(both, kernels, torch.cat([self.bias, self.bias]), stride=2)  # (2*B, 2*K, H', W')
        count, (height, width) = self.out_channels, x.shape[2:]
        # the four values as a 2x2 image whose channels are all that is left: memory as it lies, in channels_last
        windows = x.view(batch, 2, 2, count * height * width).permute(0, 3, 1, 2)
        maps = F.max_pool2d(windows, 2)  # (B, K*H'*W', 1, 1)
        # not `maps.view(...)`: the gradient would come back in another layout and be copied twice
        return maps.permute(0, 2, 3, 1).reshape(batch, count, height, width)


class ThinConv2d(nn.Conv2d):
    """A convolution of few input channels: (B, C, H, W) -> (B, K, H-k+1, W-k+1); no padding, stride 1, W even.

    The same function as `nn.Conv2d`, whose gradient a CPU computes in two thirds of the time. On other devices it is
    `nn.Conv2d` itself.
    """

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu":
            return super().forward(images)
        return _ThinConvolution.apply(images, self.weight, self.bias)


class _ThinConvolution(torch.autograd.Function):
    """The three convolutions of a training step, each in the layout in which oneDNN does it fastest.

    The gradient of the images is a convolution with C output channels, and a vector register holds 16 of them: for the
    6 of LeNet-5's C3 most of it is idle. So two neighbouring columns become 2*C channels of one convolution of stride
    2. Its kernels are one column wider, hence a sixth of them zeros, but it takes 40 % less time.
    """

    @staticmethod
    def forward(context, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        context.save_for_backward(images, weight)
        return F.conv2d(images, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


class WholeConv2d(nn.Conv2d):
    """A convolution that sees its whole input at once, so a matrix product: (B, C, k, k) -> (B, K).

    Weights and images are multiplied in the order in which they lie in memory in channels_last: nothing is copied.
    """

    def forward(self, images: Tensor) -> Tensor:
        rows, weight = (values.permute(0, 2, 3, 1).flatten(1) for values in (images, self.weight))
        return F.linear(rows, weight, self.bias)


class LeNet5(nn.Module):
    """LeNet-5 after LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.

    The layers keep the paper's names and sizes. As in most later versions, C3 sees all six maps of S2 (the paper
    connects them by a table), S2 and S4 are max pooling, the activation is ReLU, and the output is linear.

    With `batch_norm`, batch normalization (Ioffe and Szegedy, 2015) follows C1, C3, C5 and F6. It stands behind the
    pooling of S2 and S4, where it has a quarter of the values to work on, and ReLU follows both: max(relu(x)) equals
    relu(max(x)), so without batch normalization the function is that of the usual order.
    """

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.c1 = PooledConv2d(1, 6, 5)  # 6 * (1*5*5 + 1)   =    156; S2 is in it
        self.c3 = ThinConv2d(6, 16, 5)  # 16 * (6*5*5 + 1)   =  2,416
        self.c5 = WholeConv2d(16, 120, 5)  # 120 * (400 + 1) = 48,120
        self.f6 = nn.Linear(120, 84)  # 84 * (120 + 1)       = 10,164
        self.f7 = nn.Linear(84, 10)  # 10 * (84 + 1)         =    850
        self.norm1 = nn.BatchNorm2d(6) if batch_norm else nn.Identity()  # 2 * 6   =  12
        self.norm3 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()  # 2 * 16  =  32
        self.norm5 = nn.BatchNorm1d(120) if batch_norm else nn.Identity()  # 2 * 120 = 240
        self.norm6 = nn.BatchNorm1d(84) if batch_norm else nn.Identity()  # 2 * 84  = 168
        assert count_parameters(self) == (62_158 if batch_norm else 61_706)
        for layer in (self.c3, self.c5):  # they are as fast as they say with weights that lie like this in memory
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        x = self.c1(images)  # (B, 6, 28, 28), pooled by S2 to (B, 6, 14, 14)
        x = F.relu(self.norm1(x))
        x = F.max_pool2d(self.c3(x), 2)  # (B, 16, 10, 10) -> S4 (B, 16, 5, 5)
        x = F.relu(self.norm3(x))
        x = F.relu(self.norm5(self.c5(x)))  # (B, 120)
        x = F.relu(self.norm6(self.f6(x)))  # (B, 84)
        return self.f7(x)  # (B, 10)


class CustomMLP(nn.Module):
    """A multi-layer perceptron of LeNet-5's size: 1024 -> 44 -> 120 -> 84 -> 10, SiLU between.

    From 120 on it is LeNet-5's own classifier; 44 is the width that brings the total within 0.4 % of LeNet-5's. SiLU
    (Elfwing, Uchibe and Doya, 2018) generalized better than ReLU here, and no better in LeNet-5: benchmarks/tuning.md.
    """

    def __init__(self) -> None:
        super().__init__()
        self.f1 = nn.Linear(32 * 32, 44)  # 44 * (1024 + 1) = 45,100
        self.f2 = nn.Linear(44, 120)  # 120 * (44 + 1)      =  5,400
        self.f3 = nn.Linear(120, 84)  # 84 * (120 + 1)      = 10,164
        self.f4 = nn.Linear(84, 10)  # 10 * (84 + 1)        =    850
        assert count_parameters(self) == 61_514

    def forward(self, images: Tensor) -> Tensor:
        x = F.silu(self.f1(images.flatten(1)))  # (B, 44)
        x = F.silu(self.f2(x))  # (B, 120)
        x = F.silu(self.f3(x))  # (B, 84)
        return self.f4(x)  # (B, 10)


MODELS = {"lenet": LeNet5, "mlp": CustomMLP, "lenet_bn": lambda: LeNet5(batch_norm=True)}


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def describe(model: nn.Module) -> str:
    """A table of the layers in the order in which an image passes them: name, kind, output shape, parameters."""
    rows: list[tuple[str, str, str, int]] = []

    def note(name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            rows.append((name, type(layer).__name__, "x".join(map(str, output.shape[1:])), count_parameters(layer)))

        return hook

    layers = [(name, layer) for name, layer in model.named_children() if not isinstance(layer, nn.Identity)]
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]
    training = model.training
    model.eval()
    model(torch.zeros(1, 1, 32, 32, device=next(model.parameters()).device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    lines = [f"{name:<7} {kind:<12} {shape:>9} {count:>7,}" for name, kind, shape, count in rows]
    header = f"{'layer':<7} {'kind':<12} {'output':>9} {'params':>7}"
    return "\n".join([header, *lines, f"{'total':<7} {'':<12} {'':>9} {count_parameters(model):>7,}"])
