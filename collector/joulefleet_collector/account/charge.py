"""What each model of each engine is charged at one boundary, and how far that depends on the weights chosen."""

from collections.abc import Sequence

from joulefleet.units import uj_to_j
from joulefleet_collector.account.books import Books, keep_again, ways_of
from joulefleet_collector.account.scene import Scene

Charges = dict[tuple[int, int], list[int]]
"""By number of the engine and place of the model in `by_model`: its microjoules of each of the engine's terms, in
their order. Empty where the engine does not pair."""


def charges(books: Books, scene: Scene) -> Charges:
    """The engines' terms, each split among the engine's models to the microjoule."""
    charged: Charges = {}
    for engine, works in enumerate(scene.works):
        terms = books.of_engine(engine)
        if len(works) == 1:
            charged[engine, 0] = [term.energy_uj for term in terms]
            continue
        shared = [scene.among_models(engine, term.energy_uj) for term in terms]
        for model in range(len(works)):
            charged[engine, model] = [parts_uj[model] for parts_uj in shared]
    return charged


def half_ranges_j(charged: Charges, books: Books, scene: Scene) -> dict[tuple[int, int], float]:
    """Half of what each charge moves by, in joules, over the methods that are known for what is shared, and over
    `Policy.decode_weight_range` where tokens are one of them. 0 where nothing is shared.

    That is so for measured methods too: `activity` and `busy` are shares of time, and say nothing of how many watts an
    engine drew in its time; what the other methods make of it is all that is known of that. One engine alone on a
    device shares it with nobody.
    """
    ways = ways_of(books, scene)
    others = [charges(keep_again(books, other) if ways else books, other) for other in _others(ways, scene)]
    totals = [_totals(each) for each in (charged, *others)]
    return {key: uj_to_j(max(t[key] for t in totals) - min(t[key] for t in totals)) / 2 for key in totals[0]}


def _others(ways: Sequence[tuple[str, ...]], scene: Scene) -> list[Scene]:
    """The scene with each method that is not used everywhere already, and with other weights of tokens."""
    several = [tuple(each) for each, works in zip(scene.model_ways, scene.works, strict=True) if len(works) > 1]
    used = {methods[0] for methods in (*ways, *several)}
    known = dict.fromkeys(method for methods in (*ways, *several) for method in methods)
    usual, ends = scene.policy.decode_weight, scene.policy.decode_weight_range
    varied = [(method, usual) for method in known if used != {method}]
    varied += [("", end) for end in ends if "work" in used]
    varied += [("work", end) for end in ends if "work" in known and used != {"work"}]
    return [scene.varied(*each) for each in varied]


def _totals(charged: Charges) -> dict[tuple[int, int], int]:
    return {key: sum(parts_uj) for key, parts_uj in charged.items()}
