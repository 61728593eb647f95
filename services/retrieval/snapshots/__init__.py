"""Snapshots of a data folder: what is in one, the folder of all, and restoring one."""
