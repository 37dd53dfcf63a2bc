"""State of bitsandbytes' and torchao's optimizers, turned into what torch's optimizers keep."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fallline.core.errors import CheckpointMismatch

Settings = dict[str, Any]

#: Where bitsandbytes hides quantized state from FSDP.
WRAPPED = "__bnb_optimizer_quant_state__"

#: How many elements share a scale in bitsandbytes: since version 0.44, and before.
BLOCK_SIZES = 256, 2048

#: Group keys of bitsandbytes that torch's groups do not have, or have with another meaning.
BITSANDBYTES_KEYS = {"betas", "eps", "alpha", "t_alpha", "t_beta3"}


class Rule(NamedTuple):
    """An update rule: torch's names for its state, and its settings; a rule may count its steps."""

    slots: tuple[str, ...]
    settings: Settings
    counts: bool = True


def from_bitsandbytes(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what torch's optimizer of the same rule would have saved in place of bitsandbytes' one.

    8-bit state becomes float32: each element is ``qmap[code] * absmax`` of its block, to the last bit what
    bitsandbytes computes with. 32-bit and paged state is taken as it is.

    The rule follows from how many values are kept per element, ``betas`` and ``eps``:

    ======================  =============================================  ================================
    bitsandbytes            condition                                      state there
    ======================  =============================================  ================================
    Adam, AdamW             two values                                     ``exp_avg``, ``exp_avg_sq``
    RMSprop                 one, ``eps > 0``, ``betas = (alpha, ...)``     ``square_avg``
    Adagrad                 one, ``eps > 0``, ``betas = (0, 0)``           ``sum``
    Lion                    one, ``eps = 0``, ``betas[1] > 0``             ``exp_avg``
    SGD                     one, ``eps = 0``, ``betas = (momentum, 0)``    ``momentum_buffer``
    ======================  =============================================  ================================

    The settings say what bitsandbytes does: weight decay of its Adam is decoupled, like AdamW's; momentum of
    its RMSprop and dampening and Nesterov's momentum of its SGD have no effect.

    Args:
        state_dict: what ``state_dict()`` of an optimizer of bitsandbytes returned, after at least one step.
            For an SGD with dampening set ``betas = (momentum, 0)`` in the groups: it looks like Lion.

    Returns:
        A new state dict for the optimizers of fallline and of torch.optim; unchanged tensors are shared.

    Raises:
        CheckpointMismatch: not such a state dict, or of a rule that has no counterpart (LAMB, LARS,
            AdEMAMix), or in a layout whose order is not certain.

    Example:
        >>> import torch, fallline
        >>> state = {"step": 7, "state1": torch.tensor([0.5])}
        >>> group = {"lr": 0.1, "betas": (0.9, 0), "eps": 0.0, "weight_decay": 0, "params": [0]}
        >>> saved = {"state": {0: state}, "param_groups": [group]}  # of bitsandbytes.optim.SGD
        >>> optimizer = fallline.SGD([torch.nn.Parameter(torch.ones(1))])
        >>> optimizer.load_state_dict(fallline.checkpoints.from_bitsandbytes(saved))
        >>> optimizer.param_groups[0]["momentum"]
        0.9

    Source: Dettmers et al. 2022, https://arxiv.org/abs/2110.02861; bitsandbytes 0.50. torch has no such
    function. Settings that bitsandbytes does not save (of its ``GlobalOptimManager``, clipping of versions
    before 0.50) are not in the result.
    """
    entries, groups = _parts(state_dict)
    kept = {key: {**entry, **entry.get(WRAPPED, {})} for key, entry in entries.items() if entry}
    if not kept:
        raise CheckpointMismatch(
            "the state dict has no state; it was saved before the first step: start anew"
        )
    for key, entry in kept.items():
        _refuse_foreign(key, entry)
    values = max(1 + ("state2" in entry) for entry in kept.values())
    rules = [_rule(group, values) for group in groups]
    owners = {key: rule for group, rule in zip(groups, rules, strict=True) for key in group["params"]}
    stray = sorted(str(key) for key in kept.keys() - owners.keys())
    if stray:
        raise CheckpointMismatch(f"the state dict has state of {stray}, which no group names; delete it")
    return {
        "state": {key: _torch_state(key, entry, owners[key]) for key, entry in kept.items()},
        "param_groups": [_torch_group(group, rule) for group, rule in zip(groups, rules, strict=True)],
    }


def from_torchao(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``torch.optim.Adam`` or ``AdamW`` would have saved in place of torchao's low-bit one.

    8-bit, 4-bit and float8 state becomes float32: each element is its code's value times the scale of its
    block, to the last bit what torchao computes with. The learning rate, there a tensor, becomes a number.

    Args:
        state_dict: what ``state_dict()`` of ``torchao.optim.Adam8bit``, ``Adam4bit``, ``AdamFp8`` or of an
            ``AdamW`` of these kinds returned. It does not tell Adam from AdamW: load it into the same.

    Returns:
        A new state dict for the optimizers of fallline and of torch.optim; unchanged tensors are shared.

    Raises:
        CheckpointMismatch: not a state dict of one optimizer, or its state is spread over processes.

    Example:
        >>> import torch, fallline
        >>> optimizer = fallline.AdamW([torch.nn.Parameter(torch.ones(2))])
        >>> plain = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5))
        >>> optimizer.load_state_dict(fallline.checkpoints.from_torchao(plain.state_dict()))
        >>> optimizer.param_groups[0]["lr"]
        0.5

    Source: torchao 0.18, ``torchao.optim``; the 4-bit codes follow Li et al. 2023,
    https://arxiv.org/abs/2309.01507. torch has no such function. torchao need not be installed, but it must
    be in order to read a file that holds its tensors.
    """
    entries, groups = _parts(state_dict)
    return {
        "state": {
            key: {name: _dequantized(f"{name} of parameter {key!r}", value) for name, value in entry.items()}
            for key, entry in entries.items()
        },
        "param_groups": [{k: float(v) if k == "lr" else v for k, v in group.items()} for group in groups],
    }


def _parts(state_dict: Mapping[str, Any]) -> tuple[Mapping[Any, Any], list[Settings]]:
    """Return state and groups; refuse what does not have them."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"a {type(state_dict).__name__} is no state dict; give what state_dict() returned")
    if not {"state", "param_groups"} <= state_dict.keys():
        found = ", ".join(map(repr, list(state_dict)[:5]))
        raise CheckpointMismatch(
            f"this is no state dict of one optimizer: it has {found or 'nothing'}, not 'state' and "
            f"'param_groups'; give what state_dict() of the optimizer returned"
        )
    return state_dict["state"], state_dict["param_groups"]


def _refuse_foreign(key: Any, entry: Mapping[str, Any]) -> None:
    if "state1" not in entry:
        raise CheckpointMismatch(
            f"the state of parameter {key!r} has no 'state1' but {sorted(entry)}; it is not of bitsandbytes: "
            f"load it as it is, or with from_torchao"
        )
    if "unorm_vec" in entry:
        raise CheckpointMismatch(
            f"the state of parameter {key!r} has the update norm of LAMB or LARS, which have no counterpart "
            f"here; delete its 'unorm_vec' to go on with their averages as Adam or SGD"
        )


def _rule(group: Settings, values: int) -> Rule:
    """Return the rule of a group whose parameters keep ``values`` values per element."""
    if "betas" not in group or "eps" not in group:
        raise CheckpointMismatch(
            "a group has no 'betas' or 'eps': it is not of bitsandbytes; load it as it is"
        )
    if len(group["betas"]) != 2:
        raise CheckpointMismatch("the state is of AdEMAMix, which has no counterpart here; start anew")
    (first, second), eps = group["betas"], group["eps"]
    if values == 2:
        kinds = {"amsgrad": False, "decoupled_weight_decay": True}
        return Rule(("exp_avg", "exp_avg_sq"), {"betas": (first, second), "eps": eps, **kinds})
    if eps > 0 and first > 0:
        return Rule(("square_avg",), {"alpha": first, "eps": eps, "momentum": 0, "centered": False})
    if eps > 0:
        return Rule(("sum",), {"eps": eps, "lr_decay": 0, "initial_accumulator_value": 0})
    if second > 0:
        return Rule(("exp_avg",), {"betas": (first, second)}, counts=False)
    return Rule(("momentum_buffer",), {"momentum": first, "dampening": 0, "nesterov": False}, counts=False)


def _torch_group(group: Settings, rule: Rule) -> Settings:
    return {**{k: value for k, value in group.items() if k not in BITSANDBYTES_KEYS}, **rule.settings}


def _torch_state(key: Any, entry: Mapping[str, Any], rule: Rule) -> dict[str, Tensor]:
    numbers = {"step": torch.tensor(float(entry["step"]), dtype=torch.float32)} if rule.counts else {}
    slots = {name: _decoded(key, entry, str(i)) for i, name in enumerate(rule.slots, 1)}
    return {**numbers, **slots}


def _decoded(key: Any, entry: Mapping[str, Any], i: str) -> Tensor:
    """Return the i-th value per element of bitsandbytes' state as floats."""
    state = entry["state" + i]
    if not state.is_contiguous():
        raise CheckpointMismatch(
            f"the state of parameter {key!r} is not contiguous, and on a GPU bitsandbytes ignores strides; "
            f"make it contiguous, in the order of memory if a GPU wrote it"
        )
    if state.dtype != torch.uint8:
        return state
    scales = entry.get("absmax" + i, state.new_empty(0))
    size = next((n for n in BLOCK_SIZES if -(-state.numel() // n) == len(scales)), None)
    if size is None:
        raise CheckpointMismatch(
            f"the state of parameter {key!r} has {len(scales)} scales for {state.numel()} elements, not one "
            f"for each {' or '.join(map(str, BLOCK_SIZES))}; save it again, made with block_wise=True"
        )
    scale = scales.repeat_interleave(size)[: state.numel()]
    return (entry["qmap" + i][state.flatten().int()] * scale).view(state.shape)


def _dequantized(name: str, value: Any) -> Any:
    """Return a quantized tensor of torchao as floats, and anything else as it is."""
    if hasattr(getattr(value, "_local_tensor", None), "codes"):
        raise CheckpointMismatch(
            f"{name} is spread over processes; gather the state with "
            f"get_optimizer_state_dict(..., options=StateDictOptions(full_state_dict=True))"
        )
    if not hasattr(value, "codes"):
        return value
    codes = value.codes
    if codes.numel() < value.numel():
        codes = torch.stack([codes >> 4, codes & 15], dim=-1)
    levels = value.qmap[codes.int()] if hasattr(value, "qmap") else codes.float()
    return (levels.reshape(len(value.scale), -1) * value.scale.unsqueeze(1)).view(value.shape)
