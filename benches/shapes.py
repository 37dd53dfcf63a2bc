"""The parameter lists that steps are timed on."""

Shape = tuple[int, ...]


def resnet50() -> list[Shape]:
    """Return the shapes of ResNet-50's 161 parameters (He et al. 2016)."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += _bottleneck(channels, width)
            if block == 0:
                shapes += [(4 * width, channels, 1, 1), (4 * width,), (4 * width,)]
            channels = 4 * width
    return [*shapes, (1000, channels), (1000,)]


def _bottleneck(channels: int, width: int) -> list[Shape]:
    convolutions = [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
    return [shape for c in convolutions for shape in (c, (c[0],), (c[0],))]


SHAPES: dict[str, list[Shape]] = {
    "2 x 4096x4096": [(4096, 4096)] * 2,
    "ResNet-50": resnet50(),
    "300 x 32x32": [(32, 32)] * 300,
    "1000 x 256": [(256,)] * 1000,
    "MLP, 6 tensors": [(100, 64), (100,), (100, 100), (100,), (10, 100), (10,)],
}
LARGE = ("2 x 4096x4096", "ResNet-50")
