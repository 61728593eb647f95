"""The routes: one module for each API dialect and for each resource of Sluice's own API."""
