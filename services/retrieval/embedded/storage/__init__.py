"""What the embedded engine keeps on disk: the SQLite store and the files of segments."""
