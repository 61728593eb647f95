"""An untrained cross-encoder for speed measurements: a bi-encoder's body with a random head.

    python -m loadtest.peers.untrained CHECKPOINT FOLDER

Speed and parity do not depend on training; what it says about relevance means nothing.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

_SEED = 7


def write(checkpoint: Path, folder: Path) -> None:
    """Write the cross-encoder: one logit, the checkpoint's tokenizer."""
    torch.manual_seed(_SEED)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1, local_files_only=True)
    # Weights as large as a trained head's, so that scores differ.
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint, local_files_only=True).save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
