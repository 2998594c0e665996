"""Who calls, and what they may do: tokens, certificates, scopes, and how often."""
