"""Trees of values and tensors: what goes in comes out in every bit, or is refused by its place."""

import math
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import fallline
from fallline.checkpoints.tree import DTYPES


def bits(x):
    """Return the bytes of a tensor's elements in logical order: NaN equals NaN, and -0 is not 0."""
    x = torch.view_as_real(x) if x.is_complex() else x
    flat = x.clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if x.numel() else b""


def assert_equal(a, b):
    """Assert that ``a`` has the types and bits of ``b``, and its layouts where those leave no gaps."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b))
        assert a.stride() == torch.empty_like(b, device="meta").stride()
    elif isinstance(a, dict):
        assert [(type(key), key) for key in a] == [(type(key), key) for key in b]
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    elif isinstance(a, float):
        assert math.isnan(a) == math.isnan(b)
        assert math.isnan(a) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    else:
        assert a == b


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def random_bits(dtype, shape, seed=0):
    """Return a tensor of any dtype whose bits are random (bool: 0 or 1)."""
    count = math.prod(shape) * torch.empty((), dtype=dtype).element_size()
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(256, (count,), dtype=torch.uint8, generator=generator)
    raw = raw % 2 if dtype == torch.bool else raw
    return raw.view(dtype).reshape(shape)


def laid_out(x, how):
    """Return a tensor equal to ``x`` in another memory layout."""
    match how:
        case "transposed":
            turned = tuple(reversed(range(x.dim())))
            return x.permute(turned).contiguous().permute(turned)
        case "strided":
            return torch.stack([x, x], dim=-1)[..., 0]
        case "channels_last" if x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        case "expanded":
            return x[None].expand(2, *x.shape)
    return x


tensors = st.builds(
    lambda dtype, shape, how, seed: laid_out(random_bits(dtype, shape, seed), how),
    st.sampled_from([*DTYPES, torch.complex128]),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from(["plain", "transposed", "strided", "channels_last", "expanded"]),
    st.integers(0, 2**32),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | tensors
keys = st.text(st.characters(), max_size=6) | st.integers() | st.sampled_from(["a.b", "a", "b", "tensor"])
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=trees)
def test_every_tree_comes_back(tree):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree"
        fallline.save(tree, path)
        assert_equal(fallline.load(path), tree)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)], ids=str)
def test_every_dtype(path, dtype, shape):
    x = random_bits(dtype, shape)
    fallline.save({"x": x}, path)
    assert_equal(fallline.load(path), {"x": x})


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_half_precision_complex(path):
    x = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex32)
    fallline.save(x, path)
    assert torch.equal(torch.view_as_real(fallline.load(path)), torch.view_as_real(x))


def test_views_parameters_and_shared_memory(path):
    base = torch.arange(12.0).reshape(3, 4)
    weight = torch.nn.Parameter(base[1])
    conjugate = torch.tensor([1 + 2j]).conj()
    fallline.save([base, base.t(), base[:, ::2], weight, conjugate, torch._neg_view(base)], path)
    loaded = fallline.load(path)
    for one, other in zip(
        loaded, [base, base.t(), base[:, ::2], base[1], torch.tensor([1 - 2j]), -base], strict=True
    ):
        assert torch.equal(one, other)
        assert not one.requires_grad
    loaded[0].fill_(0)
    assert torch.equal(loaded[1], base.t())


def test_what_is_loaded_may_be_written_to_and_outlives_the_file(path):
    fallline.save(torch.zeros(1000), path)
    loaded = fallline.load(path)
    path.write_bytes(b"")
    assert loaded.add_(1).sum() == 1000


def test_the_state_of_a_training_comes_back(path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = fallline.AdamW(model.named_parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    tree = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    fallline.save(tree, path)
    assert_equal(fallline.load(path), tree)


def test_ordered_dicts_become_dicts(path):
    fallline.save(OrderedDict(b=1, a=2), path)
    assert_equal(fallline.load(path), {"b": 1, "a": 2})


def test_other_tools_read_the_tensors_by_the_names_of_their_places(path):
    state = {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "list": [torch.zeros(2, dtype=torch.bool)],
    }
    fallline.save(state, path)
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == {"optimizer.state[0].exp_avg", "list[0]"}
        assert file.get_tensor("optimizer.state[0].exp_avg").tolist() == [1.0] * 3
        assert file.metadata()["format"] == "pt"


def test_map_location(path):
    fallline.save(torch.ones(3), path)
    assert fallline.load(path, map_location="meta").is_meta
    assert fallline.load(path, map_location=torch.device("cpu")).device.type == "cpu"


class Custom(torch.Tensor):
    pass


REFUSED = [
    ({"optimizer": {"param_groups": [{"lr": lambda: 0}]}}, "optimizer.param_groups[0].lr is function <"),
    ({"loss": np.float64(0.5)}, "loss is float64 np.float64(0.5); make it a number with .item()"),
    ({"data": np.zeros(1)}, "data is ndarray array([0.]); make it a number with .item(), or a tensor with"),
    ([1, {2}], "[1] is set {2}; save dicts, lists, tuples, tensors"),
    ({"dtype": torch.float32}, "dtype is dtype torch.float32; save dicts"),
    (
        {"model": torch.nn.Flatten()},
        "model is Flatten Flatten(start_dim=1, end_dim=-1); save its state_dict()",
    ),
    ({(1, 2): 3}, "the key (1, 2) is tuple, in the value; use a str or an int"),
    ({"a": {True: 3}}, "the key True is bool, in a; use a str or an int"),
    (
        {"a b": torch.zeros(3).to_sparse()},
        "['a b'] is a Tensor (torch.float32, torch.sparse_coo, on cpu); make",
    ),
    (
        (torch.empty(3, device="meta"),),
        "[0] is a Tensor (torch.float32, torch.strided, on meta); make it a plain",
    ),
    (torch.zeros(3).as_subclass(Custom), "the value is a Custom (torch.float32"),
    ([torch.zeros(3, dtype=torch.float8_e4m3fnuz)], "[0] is a Tensor (torch.float8_e4m3fnuz, "),
]


@pytest.mark.parametrize(("obj", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_what_cannot_be_saved_is_named_before_anything_is_written(path, obj, words):
    fallline.save("old", path)
    with pytest.raises(TypeError) as raised:
        fallline.save(obj, path)
    assert str(raised.value).startswith(words)
    assert fallline.load(path) == "old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_tree_that_contains_itself(path):
    tree = {"a": []}
    tree["a"].append(tree)
    with pytest.raises(TypeError, match=r"a\[0\] contains itself"):
        fallline.save(tree, path)
    twice = [1]
    fallline.save([twice, twice], path)
    assert fallline.load(path) == [[1], [1]]
