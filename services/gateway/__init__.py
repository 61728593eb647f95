"""The HTTP gateway: Sluice's own routes, the APIs of OpenAI, Cohere, Jina and TEI, and the console."""
