"""Worlds with known outcomes, policies run in them, and what came of it."""
