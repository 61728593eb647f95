"""Values and protocols that both engines share. Rule: imports no engine."""
