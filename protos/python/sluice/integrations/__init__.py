"""Integrations of Sluice into other libraries. Each module needs its library; see INTEGRATIONS.md."""
