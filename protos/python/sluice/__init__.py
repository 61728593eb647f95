"""What a client of Sluice needs: generated stubs, errors, the client and the command line."""

__version__ = "0.1.0"
