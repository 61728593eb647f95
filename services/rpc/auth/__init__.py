"""Authentication and authorization: certificates, tokens, permissions and quotas."""
