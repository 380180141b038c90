"""What each model of each engine is charged at one boundary, and how far that depends on the weights chosen."""

from joulefleet.units import uj_to_j
from joulefleet_collector.account.books import Books, keep_again, splits_by_tokens
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
    """Half of what each charge moves by over `Policy.decode_weight_range`, in joules.

    0 where nothing is shared, or where it is shared by something better than tokens.
    """
    totals = [_totals(charged)]
    if _by_tokens(books, scene):
        totals += [_totals(charges(_books_in(other, books, scene), other)) for other in scene.in_range]
    return {key: uj_to_j(max(t[key] for t in totals) - min(t[key] for t in totals)) / 2 for key in totals[0]}


def _totals(charged: Charges) -> dict[tuple[int, int], int]:
    return {key: sum(parts_uj) for key, parts_uj in charged.items()}


def _books_in(other: Scene, books: Books, scene: Scene) -> Books:
    # Weights of tokens move energy between engines only where it was split by them; among models they always do.
    return keep_again(books, other) if splits_by_tokens(books, scene) else books


def _by_tokens(books: Books, scene: Scene) -> bool:
    return any(len(works) > 1 for works in scene.works) or any(term.method == "work" for term in books.terms)
