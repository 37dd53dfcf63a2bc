"""Going on until a comparison is settled, without finding differences that are only luck.

Whoever looks at the results again and again, and stops when there is a difference, finds one among equals
sooner or later. So there are few looks, agreed on before, and every test is made at the level divided by
their number: the chance of any false finding at any look stays below the level (Bonferroni's inequality).
"""

from math import ceil

from fallline.compare.records import Comparison, Plan, Trial

#: How often the results may be looked at, and how much larger a comparison is at each look.
LOOKS, GROWTH = 5, 1.5


def looks(studies: int) -> tuple[int, ...]:
    """Return the numbers of studies at which the results are looked at.

    >>> looks(3)
    (3, 5, 8, 12, 18)
    """
    sizes = [studies]
    while len(sizes) < LOOKS:
        sizes.append(ceil(GROWTH * sizes[-1]))
    return tuple(sizes)


def is_settled(plan: Plan, trials: list[Trial]) -> bool:
    """Say whether more studies would not change what is known: nobody stands open beside the best."""
    from fallline.compare.judgement.verdict import judge

    places = judge(Comparison(plan, trials)).places
    return not any(place.standing == "open" for place in places)
