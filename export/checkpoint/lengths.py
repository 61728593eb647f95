"""The longest input that a model computes exactly, from its configuration."""

from typing import Any, Final

# Their positions are counted from the one after padding, pad_token_id + 1.
_FROM_PADDING: Final = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "lilt",
    "longformer",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def position_count(config: dict[str, Any]) -> int | None:
    """Return the longest input that a model has positions for, or that its graph computes; None without a limit."""
    limits = [_table_length(config), _block_length(config)]
    return min((limit for limit in limits if limit is not None), default=None)


def _table_length(config: dict[str, Any]) -> int | None:
    """Return the number of positions that tokens can have."""
    is_relative = "t5" in str(config.get("model_type"))  # its n_positions is no limit
    positions = config.get("max_position_embeddings", None if is_relative else config.get("n_positions"))
    if not isinstance(positions, int) or positions <= 0:
        return None
    if config.get("model_type") not in _FROM_PADDING:
        return positions
    padding = config.get("pad_token_id")
    return positions - 1 - (1 if padding is None else int(padding))


def _block_length(config: dict[str, Any]) -> int | None:
    """Return up to which length BigBird attends to all tokens, which is what its graph computes.

    For longer inputs transformers computes attention in blocks.
    """
    if config.get("model_type") != "big_bird" or config.get("attention_type", "block_sparse") != "block_sparse":
        return None
    return (5 + 2 * int(config.get("num_random_blocks", 3))) * int(config.get("block_size", 64))
