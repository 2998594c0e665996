"""The log and the epochs in PostgreSQL, for several replicas on one database."""
