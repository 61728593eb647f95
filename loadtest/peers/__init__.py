"""Other servers and libraries, run beside Sluice with the same model, texts and callers."""
