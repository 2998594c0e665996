"""The mathematics of Pointsman: pure functions of their arguments, with no I/O, clock or hidden randomness."""
