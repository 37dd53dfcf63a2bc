"""A tree of dicts, lists, tuples, numbers and tensors as JSON, and the tensors beside it."""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: How safetensors calls each dtype; the complex ones that it lacks are stored as pairs of reals.
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
}  # fmt: skip
_PAIRS = (torch.complex128, torch.complex32)
_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def packed(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """Return the structure of ``tree`` as JSON text, and its tensors by the names of their places.

    Raises TypeError, naming the place, for what cannot be saved without code.
    """
    packer = _Packer()
    structure = packer.pack(tree, "")
    return json.dumps(structure, separators=(",", ":")), packer.tensors


def unpacked(structure: str, tensors: Mapping[str, Tensor]) -> Any:
    """Return the tree that `packed` took apart."""
    return _unpack(json.loads(structure), tensors)


class _Packer:
    """Turns a tree into JSON, in which an object has a key that says what it stands for."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._inside: set[int] = set()

    def pack(self, value: Any, place: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if isinstance(value, (dict, list, tuple)):
            return self._container(value, place)
        raise TypeError(f"{_named(place)} is {type(value).__name__} {_short(value)}; {_remedy(value)}")

    def _container(self, value: Any, place: str) -> Any:
        if id(value) in self._inside:
            raise TypeError(f"{_named(place)} contains itself; save a tree")
        self._inside.add(id(value))
        if isinstance(value, dict):
            _refuse_keys(value, place)
            packed = {"dict": [[k, self.pack(v, _below(place, k))] for k, v in value.items()]}
        else:
            items = [self.pack(v, f"{place}[{i}]") for i, v in enumerate(value)]
            packed = {"tuple": items} if isinstance(value, tuple) else items
        self._inside.remove(id(value))
        return packed

    def _tensor(self, x: Tensor, place: str) -> dict[str, Any]:
        """Enter a tensor as other tools should see it, and return what that loses of strides and dtype."""
        if (
            type(x) not in _PLAIN
            or x.layout != torch.strided
            or x.is_meta
            or x.dtype not in (*DTYPES, *_PAIRS)
        ):
            kind = f"{type(x).__name__} ({x.dtype}, {x.layout}, on {x.device})"
            raise TypeError(f"{_named(place)} is a {kind}; make it a plain dense tensor first")
        entry: dict[str, Any] = {"tensor": self._unused(place)}
        strides = torch.empty_like(x, device="meta", memory_format=torch.preserve_format).stride()
        if strides != torch.empty(x.shape, device="meta").stride():
            entry["strides"] = list(strides)
        stored = x.detach().resolve_conj().resolve_neg()
        if x.dtype in _PAIRS:
            entry["complex"] = True
            stored = torch.view_as_real(stored)
        self.tensors[entry["tensor"]] = stored
        return entry

    def _unused(self, place: str) -> str:
        wanted = (place or "tensor").encode("utf-8", "replace").decode()
        name, n = wanted, 1
        while name in self.tensors or name == "__metadata__":
            name, n = f"{wanted}#{n}", n + 1
        return name


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "tuple" in value:
        return tuple(_unpack(v, tensors) for v in value["tuple"])
    if "dict" in value:
        return {k: _unpack(v, tensors) for k, v in value["dict"]}
    x = tensors[value["tensor"]]
    x = torch.view_as_complex(x) if value.get("complex") else x
    if "strides" not in value:
        return x
    return torch.empty_strided(x.shape, value["strides"], dtype=x.dtype, device=x.device).copy_(x)


def _refuse_keys(value: dict[Any, Any], place: str) -> None:
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(
                f"the key {_short(key)} is {type(key).__name__}, in {_named(place)}; use a str or an int"
            )


def _below(place: str, key: str | int) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{place}.{key}" if place else key
    return f"{place}[{key!r}]"


def _named(place: str) -> str:
    return place or "the value"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _remedy(value: Any) -> str:
    if hasattr(value, "state_dict"):
        return "save its state_dict()"
    if hasattr(value, "item") and hasattr(value, "dtype"):
        return "make it a number with .item(), or a tensor with torch.as_tensor"
    return "save dicts, lists, tuples, tensors, numbers, text, True, False and None"
