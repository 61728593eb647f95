"""What every engine shares: values of requests and answers, and the protocol that an engine implements."""
