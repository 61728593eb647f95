"""One module a shape: the requests it takes and the answers it gives."""
