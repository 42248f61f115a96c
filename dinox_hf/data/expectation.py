"""The check that every field of a configuration shares: one sentence with expected value, found value and a hint."""


def expect(holds: bool, name: str, expected: str, found: object, hint: str) -> None:
    """Refuse a value that cannot work.

    Args:
        holds: whether the value is acceptable.
        name: dotted name of the field.
        expected: what it must be, in words.
        found: the value.
        hint: a value that works, or what the number means.

    Raises:
        ValueError: if it does not hold.
    """
    if not holds:
        raise ValueError(f"{name} must be {expected}; found {found!r}. Note: {hint}.")
