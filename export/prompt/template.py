"""The text of a reranker's prompt, with fields for the query and the documents.

Facts: the texts are those that published models were trained with. Qwen3-Reranker: the system and user message of its
model card, whose end `enable_thinking=False` adds. FIRST and RankZephyr: those of the RankLLM library.
"""

from dataclasses import dataclass
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from export.errors import ExportError
from export.prompt.options import PromptOptions

QUERY: Final = "{query}"
DOCUMENT: Final = "{document}"
INSTRUCTION: Final = "{instruction}"
COUNT: Final = "{count}"
IDENTIFIER: Final = "{identifier}"
DEFAULT_INSTRUCTION: Final = "Given a web search query, retrieve relevant passages that answer the query"
IDENTIFIERS: Final = tuple("ABCDEFGHIJKLMNOPQRST")
_JUDGE: Final = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".',
    f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {DOCUMENT}",
)
_RANK: Final = (
    "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query",
    f"I will provide you with {COUNT} passages, each indicated by a alphabetical identifier []. Rank the passages "
    f"based on their relevance to the search query: {QUERY}.\n\n[{IDENTIFIER}] {DOCUMENT}\nSearch Query: {QUERY}.\n"
    f"Rank the {COUNT} passages above based on their relevance to the search query. All the passages should be "
    "included and listed using identifiers, in descending order of relevance. The output format should be [] > [], "
    "e.g., [D] > [B], Only respond with the ranking results, do not say any word or explain.",
)


@dataclass(frozen=True)
class Template:
    """A prompt: `head`, then `document` for each document, then `tail`."""

    head: str
    document: str
    tail: str

    def fill(self, query: str, documents: tuple[str, ...], identifiers: tuple[str, ...] = IDENTIFIERS) -> str:
        """Return the whole text of a prompt."""
        head, tail = (
            query.join(part.replace(COUNT, str(len(documents))).split(QUERY)) for part in (self.head, self.tail)
        )
        middle = (
            document.join(self.document.replace(IDENTIFIER, identifier).split(DOCUMENT))
            for document, identifier in zip(documents, identifiers, strict=False)
        )
        return "".join((head, *middle, tail))


def pair_template(tokenizer: PreTrainedTokenizerFast, options: PromptOptions) -> Template:
    """Return the prompt of a query and a document. Raises ExportError."""
    text = options.template or _chat(tokenizer, *_JUDGE)
    head, tail = _split(text.replace(INSTRUCTION, options.instruction or DEFAULT_INSTRUCTION))
    # Half of the text between query and document belongs to each.
    before, after = head.rpartition(QUERY)[2], tail.partition(QUERY)[0]
    start, end = len(head) - len(before) // 2, len(after) // 2
    return Template(head[:start], head[start:] + DOCUMENT + tail[:end], tail[end:])


def list_template(tokenizer: PreTrainedTokenizerFast, options: PromptOptions) -> Template:
    """Return the prompt of a query and a list of documents: the line with the document is repeated.

    It ends with the bracket before the first identifier of the answer. Raises ExportError.
    """
    text = options.template or _chat(tokenizer, *_RANK) + "["
    head, tail = _split(text)
    start, end = head.rfind("\n") + 1, tail.find("\n") + 1
    if IDENTIFIER not in head[start:] or not end:
        raise ExportError(f"--template: expected a line with {IDENTIFIER} and {DOCUMENT}, found none")
    return Template(head[:start], head[start:] + DOCUMENT + tail[:end], tail[end:])


def _split(text: str) -> tuple[str, str]:
    head, found, tail = text.partition(DOCUMENT)
    if not found or DOCUMENT in tail or QUERY not in head + tail:
        raise ExportError(f"--template: expected {QUERY} and {DOCUMENT}, the latter once, found {text[:200]!r}")
    return head, tail


def _chat(tokenizer: PreTrainedTokenizerFast, system: str, user: str) -> str:
    """Return a conversation in the tokenizer's format, up to the answer. Raises ExportError if it has none."""
    if not tokenizer.chat_template:
        raise ExportError(
            "expected a tokenizer with a chat template, found none: name the text of the prompt with --template"
        )
    try:
        return _render(tokenizer, [("system", system), ("user", user)])
    except TemplateError:  # Gemma's has no system message
        return _render(tokenizer, [("user", f"{system}\n{user}")])


def _render(tokenizer: PreTrainedTokenizerFast, messages: list[tuple[str, str]]) -> str:
    conversation: list[Any] = [{"role": role, "content": content} for role, content in messages]
    rendered = tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return str(rendered)
