"""Stands in for pandas, which P2PFL imports and the tests' learner never uses."""


class DataFrame:
    """Named in a signature."""


class Series:
    """So is this."""
