"""What the bodies of requests share."""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A JSON body. What a shape's clients send and nobody here needs is ignored, as their own servers do."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)
