"""Options of a reranker's prompt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptOptions:
    """Options of the prompt. None means the default of the task."""

    yes_token: str | None = None
    no_token: str | None = None
    instruction: str | None = None
    template: str | None = None
    """Text with the fields `{query}`, `{document}`, `{instruction}`, and for lists `{count}` and `{identifier}`."""
