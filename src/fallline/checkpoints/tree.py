"""A tree of dicts, lists, tuples, numbers and tensors as JSON, and the tensors beside it."""

import json
import math
from typing import Any

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)


def packed(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """Return the structure of ``tree`` as JSON text, and its tensors by the names that the text uses.

    Raises TypeError, naming the place, for what cannot be saved without code.
    """
    tensors: dict[str, Tensor] = {}
    structure = _pack(tree, "", tensors)
    return json.dumps(structure, separators=(",", ":")), tensors


def unpacked(structure: str, tensors: dict[str, Tensor]) -> Any:
    """Return the tree that `packed` took apart."""
    return _unpack(json.loads(structure), tensors)


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, dict):
        _refuse_keys(value, place)
        return {"dict": [[k, _pack(v, f"{place}[{k!r}]", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        packed = [_pack(v, f"{place}[{i}]", tensors) for i, v in enumerate(value)]
        return {"tuple": packed} if isinstance(value, tuple) else packed
    if isinstance(value, Tensor):
        return _pack_tensor(value, place, tensors)
    raise TypeError(f"the value{_at(place)} is {type(value).__name__} {_short(value)}; {_remedy(value)}")


def _pack_tensor(x: Tensor, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Enter a tensor in the order of its memory, and return how to bring it back to its own."""
    if type(x) not in _PLAIN or x.layout != torch.strided or x.is_meta or x.is_quantized:
        kind = f"{type(x).__name__} ({x.layout}, on {x.device})"
        raise TypeError(f"the value{_at(place)} is a {kind}; make it a plain dense tensor first")
    x = x.detach().resolve_conj().resolve_neg().cpu()
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    dense = x.permute(order).is_contiguous()
    name = str(len(tensors))
    stored = x.permute(order) if dense else x.contiguous()
    tensors[name] = torch.view_as_real(stored) if stored.is_complex() else stored
    entry: dict[str, Any] = {"tensor": name}
    if dense and order != list(range(x.dim())):
        entry["order"] = order
    if x.is_complex():
        entry["complex"] = True
    return entry


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
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
    order = value.get("order")
    return x.permute([order.index(i) for i in range(len(order))]) if order else x


def _refuse_keys(value: dict[Any, Any], place: str) -> None:
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(f"the key {_short(key)}{_at(place)} is {type(key).__name__}; use a str or an int")


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _remedy(value: Any) -> str:
    if hasattr(value, "state_dict"):
        return "save its state_dict()"
    if hasattr(value, "item") and hasattr(value, "dtype"):
        return "make it a number with .item(), or a tensor with torch.as_tensor"
    return "save dicts, lists, tuples, tensors, numbers, text, True, False and None"
