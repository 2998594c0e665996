"""The durable event log: the protocol every store obeys, and the stores."""
