"""The embedded engine: collections in one data folder, searched in this process."""
