"""One index stream: documents in, acknowledgements out."""
