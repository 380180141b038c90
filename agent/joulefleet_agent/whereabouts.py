"""Says on which boards the engines run, and whose processes nobody can tell, with what a person can do about it."""

from collections.abc import Sequence

from joulefleet.describe import WHOLE, Engine
from joulefleet_agent.placement import Placed, is_found, may_be_placed, placed
from joulefleet_agent.probe import Finding
from joulefleet_agent.processes import HIDDEN, NOBODY, Names, Processes


def whereabouts(findings: Sequence[Finding], names: Names | None = None) -> list[str]:
    """A sentence for each engine whose boards are looked for, and one for what cannot be seen.

    Empty where no process is told of. `names` knows the processes of this machine, if it is not given.
    """
    names = names or Processes()
    readable = [one for one in findings if one.readable]
    lists = {meter: processes for one in readable for meter, processes in one.processes.items()}
    engines = [engine for one in readable for engine in one.engines]
    sought = [engine for engine in engines if may_be_placed(engine)]
    if not sought or not any(lists.values()):
        return []
    owners = names.owners({pid for processes in lists.values() for pid in processes}, engines)
    where = placed(sought, lists, owners, {})
    strangers = sum(owner == NOBODY for owner in owners.values())
    return [
        *(_sentence(engine, where) for engine in sought),
        *([f"Processes on boards that are no engine's: {strangers}; theirs is `unattributed`."] if strangers else []),
        *([f"Not seen: {HIDDEN}."] if names.hidden else []),
    ]


def _sentence(engine: Engine, where: Placed) -> str:
    parts = where.get(engine.id, ())
    if not parts:
        rest = "its tokens have no joules beside them" if is_found(engine) else "it is taken to have the whole server"
        return f"Where {engine.id} runs is not known: no process of it is seen on a board; {rest}."
    boards = ", ".join(part.meter for part in parts)
    beside = ", beside processes that are no engine's" if any(part.share_ppm < WHOLE for part in parts) else ""
    return f"{engine.id} runs on {boards}{beside}."
