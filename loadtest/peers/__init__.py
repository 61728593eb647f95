"""Other servers and libraries, run here beside ours with the same model, texts and callers."""
