"""Results for people: the HTML report, its charts, terminal tables, and the machine that was measured."""
