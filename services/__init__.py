"""The servers. A folder with a `__main__` is a process; `core`, `rpc` and `model` are what they stand on."""
