"""How long what failed is left alone before it is tried again."""

FIRST, LONGEST = 2.0, 300.0


def wait(tries: int) -> float:
    """Seconds until the next try after `tries` (1 or more) that failed: doubling, up to LONGEST.

    >>> wait(1), wait(2), wait(100)
    (2.0, 4.0, 300.0)
    """
    return float(min(FIRST * 2.0 ** min(tries - 1, 30), LONGEST))
