"""What each model is charged, and how far a weight decides it."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.units import uj_to_j
from joulefleet.window import Window
from joulefleet_collector.account.books import Books
from joulefleet_collector.account.charge import charges, half_ranges_j
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import Scene, scene_of


def kept(build: SimpleNamespace, window: Window) -> tuple[Books, Scene]:
    scene = scene_of(window, Policy())
    return build.books(covers(scene.meters, scene.step_ns)[0], scene), scene


def half_ranges(build: SimpleNamespace, window: Window) -> dict[tuple[int, int], float]:
    books, scene = kept(build, window)
    return half_ranges_j(charges(books, scene), books, scene)


def test_models_share_their_engines_energy(build: SimpleNamespace) -> None:
    works = [build.work("a", output_tokens=1), build.work("b", output_tokens=2)]
    books, scene = kept(build, build.window([build.meter("gpu", 90, idle_w=0.5)], [build.engine("e", ["gpu"], works)]))
    charged = charges(books, scene)
    assert {key: sum(parts_uj) for key, parts_uj in charged.items()} == {(0, 0): 30 * 10**6, (0, 1): 60 * 10**6}
    buckets = [term.bucket for term in books.of_engine(0)]
    assert dict(zip(buckets, charged[0, 0], strict=True)) == {"idle": 10 * 10**6, "active": 20 * 10**6}


@given(data=st.data())
def test_charges_are_the_terms_of_the_engines(
    data: st.DataObject, build: SimpleNamespace, generated: SimpleNamespace
) -> None:
    scene = scene_of(data.draw(generated.windows()), Policy())
    for cover in covers(scene.meters, scene.step_ns):
        books = build.books(cover, scene)
        charged = charges(books, scene)
        for number in range(len(scene.engines)):
            mine = sum(term.energy_uj for term in books.terms if term.engine == number)
            assert sum(sum(parts_uj) for (n, _), parts_uj in charged.items() if n == number) == mine


def test_the_range_is_that_of_the_decode_weight(build: SimpleNamespace) -> None:
    engines = [
        build.engine("a", ["gpu"], [build.work(prompt_tokens=100, output_tokens=0)]),
        build.engine("b", ["gpu"], [build.work(prompt_tokens=0, output_tokens=10)]),
    ]
    found = half_ranges(build, build.window([build.meter("gpu", 700)], engines))
    # 100 : 50 at a weight of 5, 100 : 250 at 25
    half_j = 700 * (100 / 150 - 100 / 350) / 2
    assert found == {(0, 0): pytest.approx(half_j), (1, 0): pytest.approx(half_j)}


def test_models_of_one_engine_have_a_range(build: SimpleNamespace) -> None:
    works = [build.work("a", prompt_tokens=100, output_tokens=0), build.work("b", prompt_tokens=0, output_tokens=10)]
    found = half_ranges(build, build.window([build.meter("gpu", 700)], [build.engine("e", ["gpu"], works)]))
    assert found[0, 0] == found[0, 1] > 100


def test_nothing_depends_on_weights_where_nothing_is_shared(build: SimpleNamespace) -> None:
    alone = build.engine("a", ["gpu"], [build.work(prompt_tokens=100, output_tokens=7, busy_ns=5)])
    assert half_ranges(build, build.window([build.meter("gpu", 700)], [alone])) == {(0, 0): 0}


def shared(
    build: SimpleNamespace, a: dict[str, int], b: dict[str, int], **more: object
) -> dict[tuple[int, int], float]:
    engines = [build.engine(name, ["gpu"], [build.work(**counts)]) for name, counts in (("a", a), ("b", b))]
    return half_ranges(build, build.window([build.meter("gpu", 700, **more)], engines))


def test_the_range_is_over_every_method_that_is_known(build: SimpleNamespace) -> None:
    # By busy time 500 to 200 J, by tokens 350 to 350 J whatever their weight.
    a, b = {"busy_ns": 5, "output_tokens": 10}, {"busy_ns": 2, "output_tokens": 10}
    assert shared(build, a, b) == {(0, 0): 75, (1, 0): 75}
    # By activity 100 to 600 J, the best, and so the range is from 100 to 500 J.
    assert shared(build, a, b, activity_ns={"a": 1, "b": 6}) == {(0, 0): 200, (1, 0): 200}


def test_a_measured_method_beside_which_none_is_known_has_no_range(build: SimpleNamespace) -> None:
    requests = {"requests_ok": 3}
    assert shared(build, {"busy_ns": 5}, {"busy_ns": 2}) == {(0, 0): 0, (1, 0): 0}
    assert shared(build, requests, requests, activity_ns={"a": 1, "b": 6}) == {(0, 0): 0, (1, 0): 0}


def test_equal_shares_may_be_all_or_nothing(build: SimpleNamespace) -> None:
    requests = {"requests_ok": 3}
    assert shared(build, requests, requests) == {(0, 0): 350, (1, 0): 350}
    assert shared(build, requests, {"requests_ok": 0}) == {(0, 0): 0, (1, 0): 0}


def test_models_of_one_engine_have_a_range_over_methods_too(build: SimpleNamespace) -> None:
    works = [build.work("a", output_tokens=10, busy_ns=5), build.work("b", output_tokens=10, busy_ns=2)]
    found = half_ranges(build, build.window([build.meter("gpu", 700)], [build.engine("e", ["gpu"], works)]))
    assert found == {(0, 0): 75, (0, 1): 75}


@given(data=st.data())
def test_the_range_holds_the_charge_by_each_method(
    data: st.DataObject, build: SimpleNamespace, generated: SimpleNamespace
) -> None:
    scene = scene_of(data.draw(generated.windows()), Policy())
    for cover in covers(scene.meters, scene.step_ns):
        books = build.books(cover, scene)
        charged = charges(books, scene)
        half_j = half_ranges_j(charged, books, scene)
        for method in ("activity", "busy", "running", "work"):
            other = scene.varied(method, scene.policy.decode_weight)
            again = charges(build.books(cover, other), other)
            for key, parts_uj in charged.items():
                moved_j = abs(uj_to_j(sum(parts_uj) - sum(again[key])))
                assert moved_j <= 2 * half_j[key] + 1e-6
