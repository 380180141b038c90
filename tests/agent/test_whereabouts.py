"""What the doctor says of where engines run, and of what it cannot see."""

from collections.abc import Iterable, Sequence

from joulefleet.describe import SOMEWHERE, Engine, Reservation
from joulefleet.reading import Reading
from joulefleet_agent.doctor import report, told
from joulefleet_agent.probe import Finding
from joulefleet_agent.processes import HIDDEN, NOBODY
from joulefleet_agent.whereabouts import whereabouts

SEEN = Engine(id="seen", software="vllm", port=8000, devices=(Reservation(SOMEWHERE),))
LOST = Engine(id="lost", software="vllm", port=8001, devices=(Reservation(SOMEWHERE),))
NAMED = Engine(id="named", software="vllm", port=8002)
PAGES = Finding(source="found", state="readable", engines=(SEEN, LOST, NAMED))


class Names:
    def __init__(self, hidden: bool = False, **owners: str) -> None:
        self.hidden, self._owners = hidden, {pid.removeprefix("p"): owner for pid, owner in owners.items()}

    def named(self, readings: Sequence[Reading], engines: Sequence[Engine]) -> list[Reading]:
        return list(readings)

    def owners(self, pids: Iterable[str], engines: Sequence[Engine]) -> dict[str, str]:
        return {pid: self._owners.get(pid, NOBODY) for pid in pids}


def boards(**pids: str) -> Finding:
    lists = {board: dict.fromkeys(these, "") for board, these in pids.items()}
    return Finding(source="nvml", state="readable", processes=lists)


def test_each_engine_is_told_with_its_boards_and_so_is_what_nobody_owns() -> None:
    assert whereabouts([PAGES, boards(gpu0="1", gpu1="12")], Names(p1="seen")) == [
        "seen runs on gpu0, gpu1, beside processes that are no engine's.",
        "Where lost runs is not known: no process of it is seen on a board; its tokens have no joules beside them.",
        "Where named runs is not known: no process of it is seen on a board; it is taken to have the whole server.",
        "Processes on boards that are no engine's: 1; theirs is `unattributed`.",
    ]


def test_what_this_user_may_not_see_is_told_with_the_mend() -> None:
    *_, last = whereabouts([PAGES, boards(gpu0="1")], Names(hidden=True))
    assert last == f"Not seen: {HIDDEN}."
    assert "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH" in last and "unattributed" in last


def test_where_no_process_is_told_of_there_is_nothing_to_say() -> None:
    refused = Finding(source="found", state="hung", engines=(SEEN,))
    for findings in ([PAGES], [PAGES, boards(gpu0="")], [boards(gpu0="1")], [refused, boards(gpu0="1")]):
        assert whereabouts(findings, Names()) == []


def test_the_doctor_tells_it_in_words_and_as_json() -> None:
    findings = [PAGES, boards(gpu0="no such process")]
    sentence = whereabouts(findings)[0]
    assert sentence in told(findings) and sentence in report(findings)["advice"]
