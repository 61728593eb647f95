"""Snapshots: their files, the folder that holds them, and restoring one to a data folder."""
