"""Quality: models and search measured against references."""
