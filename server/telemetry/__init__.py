"""What a server tells those who watch many: Prometheus metrics."""
