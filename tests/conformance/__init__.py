"""One suite for every engine, through the real service: same calls, same answers, same errors.

Rule: what an engine cannot do stands in `engines.ENGINES`, and is asserted to be refused. Nothing is skipped for it.
"""
