"""Attributes of Sluice that are replaced while it is measured.

Rule: every replacement goes through `replace`, so that a rename in Sluice is an error here and not a wrong figure.
"""


def replace(owner: object, name: str, value: object) -> None:
    """Replace an attribute. Raises AttributeError when the owner does not have it."""
    getattr(owner, name)
    setattr(owner, name, value)
