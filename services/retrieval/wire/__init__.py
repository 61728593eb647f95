"""Protos to and from what the engine works with. Rule: every limit of the contract is checked here."""
