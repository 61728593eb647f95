"""Sluice inside the libraries people build applications with. Each module needs that library: see INTEGRATIONS.md."""
