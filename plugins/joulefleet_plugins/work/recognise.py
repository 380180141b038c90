"""Finds out whose a metrics page is, by the names of its metrics."""

from joulefleet_plugins.interfaces.exposition import Page
from joulefleet_plugins.work.gateways import GATEWAYS
from joulefleet_plugins.work.language_models import LANGUAGE_MODELS
from joulefleet_plugins.work.model_servers import MODEL_SERVERS
from joulefleet_plugins.work.table import Table, is_of, known_names
from joulefleet_plugins.work.vllm import VLLM

TABLES: dict[str, Table] = {table.software: table for table in (VLLM, *LANGUAGE_MODELS, *MODEL_SERVERS, *GATEWAYS)}


class NotRecognised(ValueError):
    """A page of which it is not certain whose it is."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        """`unrecognised`, `ambiguous`, or `gateway` where engines behind it may be counted too."""
        self.detail = detail
        super().__init__(code, detail)

    def __str__(self) -> str:
        return self.detail


def recognise(page: Page) -> Table:
    """The one table whose counters this page has. Raises NotRecognised.

    Where an engine runs inside another server that shows the engine's counters too, the engine's are taken.
    """
    known = known_names(page)
    found = [table for table in TABLES.values() if is_of(known, table)]
    engines = [table for table in found if not table.front]
    innermost = [table for table in engines if table.layer == min(one.layer for one in engines)]
    if len(innermost) == 1:
        return innermost[0]
    if innermost:
        names = ", ".join(table.software for table in innermost)
        raise NotRecognised("ambiguous", f"the page has metrics of {names}: name the one to count as `software`")
    if found:
        name = found[0].software
        raise NotRecognised(
            "gateway",
            f"the page is of {name}, whose requests the engines behind it count too: read those, and write "
            f'`software = "{name}"` here for how tenants share their work',
        )
    raise NotRecognised(
        "unrecognised",
        f"the page has no counter of {', '.join(TABLES)}: is this a metrics page? If it is of another server, "
        "write its names as [sources.table]",
    )
