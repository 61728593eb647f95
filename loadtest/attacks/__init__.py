"""Attacks on a running system, and what they cost it: `python -m loadtest bench attacks`.

One file is one attack. It sends; the rest of the package measures: memory and processor time of every server, and the
answers that others get meanwhile.
"""
