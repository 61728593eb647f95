"""The operator's half of the command line: start a system on this machine, look at it, stop it.

Rule: servers are started as `python -m services.NAME`; nothing here imports one.
"""
