"""What the arguments of schedules may be."""

from numbers import Integral

from fallline.core.schedule import Schedule, number, refusal


def whole(schedule: Schedule, name: str, least: int = 1) -> None:
    """Make the argument ``name`` an int; refuse what is not a whole number of at least ``least``."""
    value = getattr(schedule, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise refusal(schedule, name, f"must be a whole number of at least {least}")
    object.__setattr__(schedule, name, int(value))


def positive(schedule: Schedule, name: str) -> None:
    """Make the argument ``name`` a float; refuse what is not a finite number greater than 0."""
    number(schedule, name)
    if getattr(schedule, name) == 0:
        raise refusal(schedule, name, "must be greater than 0")


def increasing(schedule: Schedule, name: str) -> None:
    """Make the argument ``name`` a tuple; refuse what are not whole numbers of at least 1, increasing."""
    values = tuple(getattr(schedule, name))
    whole_numbers = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole_numbers or any(a >= b for a, b in zip((0, *values), values, strict=False)):
        raise ValueError(
            f"Invalid {name} value: {list(values)}; {name} of {type(schedule).__name__} must be "
            f"whole numbers of at least 1, each greater than the one before"
        )
    object.__setattr__(schedule, name, values)


def one_of(schedule: Schedule, name: str, choices: tuple[str, ...]) -> None:
    """Refuse an argument that is none of ``choices``."""
    if getattr(schedule, name) not in choices:
        raise refusal(schedule, name, f"must be one of {', '.join(map(repr, choices))}")
