"""Who calls and what they may do: certificates, tokens, rights and quotas."""
