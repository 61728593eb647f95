"""HTTP for what the services do: the shapes that people's clients speak, Sluice's own, and the console."""
