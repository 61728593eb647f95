"""LoRA adapters in the layout of PEFT, with random weights of a fixed seed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = "base_model.model."
QUERY, OUTPUT = "encoder.layer.0.attention.self.query", "encoder.layer.1.output.dense"
# [out, in] of two layers of a tiny BERT.
LAYERS: dict[str, tuple[int, int]] = {QUERY: (32, 32), OUTPUT: (32, 64)}

Tensors = dict[str, NDArray[np.float32]]


def low_rank(layers: Mapping[str, tuple[int, int]] = LAYERS, *, rank: int = 4, seed: int = 11) -> Tensors:
    """Return the pair of matrices of each layer [out, in], by the names that PEFT gives them."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for layer, (outputs, inputs) in layers.items():
        shapes = {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
        for part, shape in shapes.items():
            tensors[f"{PREFIX}{layer}.{part}.weight"] = random.normal(size=shape).astype(np.float32)
    return tensors


def write_adapter(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    """Write adapter_config.json and adapter_model.safetensors."""
    from safetensors.numpy import save_file

    stated = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": "sluice/tiny",
        "r": 4,
        "lora_alpha": 2,
        "lora_dropout": 0.1,
        "target_modules": ["query", "output.dense"],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "inference_mode": True,
    }
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(stated | config))
    tensors = low_rank() if tensors is None else tensors
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
