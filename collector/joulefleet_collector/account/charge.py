"""What each model of each engine is charged at one boundary, and how far that depends on the weights chosen."""

import msgspec

from joulefleet.units import uj_to_j
from joulefleet_collector.account.books import Books, keep
from joulefleet_collector.account.scene import Scene
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.split import Term
from joulefleet_collector.account.work import model_weights

Charges = dict[tuple[int, int], list[Term]]
"""Terms by number of the engine and place of the model in `by_model`; empty where the engine does not pair."""


def charges(books: Books, scene: Scene) -> Charges:
    """The engines' terms, each split among the engine's models to the microjoule."""
    weights = [model_weights(works, scene.policy) for works in scene.works]
    charged: Charges = {(engine, model): [] for engine, each in enumerate(weights) for model in range(len(each))}
    for term in books.terms:
        if term.engine is not None:
            for model, part_uj in enumerate(share_out(term.energy_uj, weights[term.engine])):
                charged[term.engine, model].append(msgspec.structs.replace(term, energy_uj=part_uj))
    return charged


def total_uj(terms: list[Term]) -> int:
    """Energy of these terms."""
    return sum(term.energy_uj for term in terms)


def half_ranges_j(charged: Charges, books: Books, scene: Scene) -> dict[tuple[int, int], float]:
    """Half of what each charge moves by over `Policy.decode_weight_range`, in joules.

    0 where nothing is shared, or where it is shared by something better than tokens.
    """
    totals = [_totals(charged)]
    if _by_tokens(books, scene):
        totals += [_totals_at(weight, books, scene) for weight in scene.policy.decode_weight_range]
    return {key: uj_to_j(max(t[key] for t in totals) - min(t[key] for t in totals)) / 2 for key in totals[0]}


def _totals(charged: Charges) -> dict[tuple[int, int], int]:
    return {key: total_uj(terms) for key, terms in charged.items()}


def _totals_at(decode_weight: int, books: Books, scene: Scene) -> dict[tuple[int, int], int]:
    policy = msgspec.structs.replace(scene.policy, decode_weight=decode_weight)
    other = msgspec.structs.replace(scene, policy=policy)
    return _totals(charges(keep(books.cover, other), other))


def _by_tokens(books: Books, scene: Scene) -> bool:
    return any(term.method == "work" for term in books.terms) or any(len(works) > 1 for works in scene.works)
