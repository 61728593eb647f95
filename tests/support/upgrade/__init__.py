"""Tools that compare two checkouts: what the older one wrote and answered, and what the newer one makes of it."""
