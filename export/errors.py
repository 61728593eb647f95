"""The error of an export."""


class ExportError(Exception):
    """A checkpoint that cannot become a bundle. The message says why and what to do."""
