"""What `import opendp.prelude as dp` finds."""


def enable_features(*_):
    pass


class Measurement:
    """Named in a signature."""
