"""A transformer's parameters by the names that the authors of Adam-mini know, and a recording of their steps.

The recording was made by ``python -m optimizers.named_transformer`` in the folder ``tests``, with Adam-mini
installed (see `record_goldens`).
"""

import importlib.metadata
import json
from pathlib import Path

import torch

RECORDING = Path(__file__).parent / "named_transformer.json"
HEADS, HEAD_DIM, WIDTH, STEPS = 2, 3, 6, 8
SETTINGS = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}

#: Grouped queries: two heads of queries share one of keys and values.
SHAPES = {
    "embed_tokens.weight": (5, WIDTH),
    "layers.0.self_attn.q_proj.weight": (HEADS * HEAD_DIM, WIDTH),
    "layers.0.self_attn.q_proj.bias": (HEADS * HEAD_DIM,),
    "layers.0.self_attn.k_proj.weight": (HEAD_DIM, WIDTH),
    "layers.0.self_attn.v_proj.weight": (HEAD_DIM, WIDTH),
    "layers.0.self_attn.o_proj.weight": (WIDTH, WIDTH),
    "layers.0.mlp.up.weight": (4, WIDTH),
    "layers.0.mlp.up.bias": (4,),
    "layers.0.input_norm.weight": (WIDTH,),
    "layers.0.gain": (WIDTH,),
    "LM_head.weight": (5, WIDTH),
}


def parameters() -> list[tuple[str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (name, torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))
        for name, shape in SHAPES.items()
    ]


def course(optimizer, named) -> list[list[float]]:
    """Return all parameters after each step, the gradients being a function of the step alone."""
    generator, places = torch.Generator().manual_seed(1), []
    for _ in range(STEPS):
        for _, p in named:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        places.append(torch.cat([p.detach().flatten() for _, p in named]).tolist())
    return places


if __name__ == "__main__":
    from adam_mini import Adam_mini

    named = parameters()
    optimizer = Adam_mini(named, **SETTINGS, dim=WIDTH, n_heads=HEADS, verbose=False)
    recording = {
        "package": "adam_mini",
        "version": importlib.metadata.version("adam_mini"),
        "course": [[float(f"{x:.13g}") for x in place] for place in course(optimizer, named)],
    }
    RECORDING.write_text(json.dumps(recording) + "\n")
