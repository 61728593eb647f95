"""One search: retrieval, rescoring and feedback within a deadline, folded into an answer."""
