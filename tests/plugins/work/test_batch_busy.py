"""Busy time of batches: from page to page, over restarts, and while a request is being counted."""

from joulefleet.reading import WorkKey
from joulefleet_plugins.work.batch_busy import BatchBusy, Batches

A, B = WorkKey("a"), WorkKey("b")


def test_each_step_has_batches_of_its_own() -> None:
    busy = BatchBusy()
    assert busy.feed({A: Batches(1000, 10, 10)}) == {A: 0}
    assert busy.feed({A: Batches(1800, 12, 18)}) == {A: 200}
    assert busy.feed({A: Batches(1900, 13, 19)}) == {A: 300}


def test_a_model_that_is_loaded_later_began_at_0() -> None:
    busy = BatchBusy()
    busy.feed({A: Batches(0, 0, 0)})
    assert busy.feed({A: Batches(0, 0, 0), B: Batches(400, 1, 4)}) == {A: 0, B: 100}


def test_counters_that_begin_anew_begin_its_sum_anew() -> None:
    busy = BatchBusy()
    busy.feed({A: Batches(1000, 10, 10), B: Batches(0, 0, 0)})
    busy.feed({A: Batches(2000, 20, 20), B: Batches(100, 1, 1)})
    assert busy.feed({A: Batches(60, 1, 2), B: Batches(200, 2, 2)}) == {A: 30, B: 200}


def test_time_waits_for_its_request() -> None:
    busy = BatchBusy()
    busy.feed({A: Batches(0, 0, 0)})
    assert busy.feed({A: Batches(500, 1, 0)}) == {A: 0}
    assert busy.feed({A: Batches(500, 1, 1)}) == {A: 500}
