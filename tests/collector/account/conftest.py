"""Windows for the tests of accounting: built by hand, and generated."""

from collections.abc import Sequence
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import strategies as st

from joulefleet.describe import Engine, Meter, Reservation, Slice
from joulefleet.reading import TIME_FIELDS, Counts, WorkKey
from joulefleet.units import j_to_uj, s_to_ns, w_to_mw
from joulefleet.window import EngineWindow, MeterWindow, Window, Work
from joulefleet_collector.account.books import Books, keep
from joulefleet_collector.account.cover import Cover
from joulefleet_collector.account.residence import reside
from joulefleet_collector.account.scene import Scene
from joulefleet_collector.rows import Row

STEP_S = 60


def meter(
    name: str,
    energy_j: float = 0.0,
    *,
    kind: str = "accelerator",
    idle_w: float | None = None,
    learnt: bool = True,
    covered_s: float = STEP_S,
    grade: str = "counter",
    sensor_class: str = "onboard",
    late_j: float = 0.0,
    activity_ns: dict[str, int] | None = None,
    **declared: object,
) -> MeterWindow:
    """A meter with so many joules in a window."""
    return MeterWindow(
        meter=Meter(id=name, kind=kind, grade=grade, sensor_class=sensor_class, **declared),
        energy_uj=j_to_uj(energy_j),
        last_uj=j_to_uj(energy_j + late_j),
        late_uj=j_to_uj(late_j),
        covered_ns=s_to_ns(covered_s),
        idle_mw=None if idle_w is None else w_to_mw(idle_w),
        idle_learnt=learnt,
        activity_ns=activity_ns,
    )


def work(model: str = "m", *, tenant: str = "", revision: str = "", late: Counts | None = None, **counts: int) -> Work:
    """Work of one key."""
    return Work(key=WorkKey(model, revision, tenant), counts=Counts(**counts), late=late or Counts())


def engine(
    name: str,
    devices: Sequence[str | tuple[str, float]] = (),
    works: Sequence[Work] = (),
    *,
    covered_s: float = STEP_S,
    running: tuple[int | None, int | None] = (None, None),
    running_s: float | None = None,
    restarts: int = 0,
    software: str = "vllm",
    **declared: object,
) -> EngineWindow:
    """An engine on these devices (with the share of each, 1 if it is not told)."""
    held = [device if isinstance(device, tuple) else (device, 1.0) for device in devices]
    return EngineWindow(
        engine=Engine(
            id=name,
            software=software,
            devices=tuple(Reservation(each, round(share * 1_000_000)) for each, share in held),
            **declared,
        ),
        work=tuple(works),
        covered_ns=s_to_ns(covered_s),
        running_start=running[0],
        running_end=running[1],
        running_ns=None if running_s is None else s_to_ns(running_s),
        restarts=restarts,
    )


def window(
    meters: Sequence[MeterWindow] = (), engines: Sequence[EngineWindow] = (), step_s: int = STEP_S, **rest: object
) -> Window:
    """A window of one server."""
    told = {"server": "n1", "timeline": 1, "start_ns": s_to_ns(1_800_000_000)} | rest
    return Window(step_ns=s_to_ns(step_s), meters=tuple(meters), engines=tuple(engines), **told)


def find(rows: Sequence[Row], kind: str, **tags: str) -> dict[str, float]:
    """The fields of the one row of this kind that has these tags."""
    found = [row for row in rows if row.kind == kind and tags.items() <= row.tags.items()]
    assert len(found) == 1, f"{len(found)} rows of kind {kind} with {tags}"
    return found[0].fields


def keys(rows: Sequence[Row]) -> set[tuple[object, ...]]:
    """The key of each row."""
    return {(row.kind, row.start_ns, frozenset(row.tags.items())) for row in rows}


def content(rows: Sequence[Row]) -> dict[tuple[object, ...], dict[str, float]]:
    """The fields of each row by its key."""
    return {(row.kind, row.start_ns, frozenset(row.tags.items())): row.fields for row in rows}


def charged_j(fields: dict[str, float]) -> float:
    """What a usage row was charged."""
    return fields["active_j"] + fields["idle_j"]


def summed(rows: Sequence[Row], kind: str = "usage", **tags: str) -> dict[str, float]:
    """Sums of the fields of all rows of this kind that have these tags."""
    total: dict[str, float] = {}
    for row in rows:
        if row.kind == kind and tags.items() <= row.tags.items():
            for name, value in row.fields.items():
                total[name] = total.get(name, 0.0) + value
    return total


ENERGY = (
    *("metered_j", "active_j", "idle_j", "idle_unallocated_j", "unattributed_j", "unmatched_j"),
    *("prefill_active_j", "prefill_idle_j", "decode_active_j", "decode_idle_j", "prefill_low_j", "prefill_high_j"),
    "allocation_j",
)


def energy_only(rows: Sequence[Row]) -> dict[tuple[object, ...], dict[str, float]]:
    """Where the joules went, by key of the usage and ledger rows."""
    return {
        key: {name: value for name, value in fields.items() if name in ENERGY}
        for key, fields in content([row for row in rows if row.kind in ("usage", "ledger")]).items()
    }


def four_gpus(**changed: object) -> Window:
    """The server of vector T6: two engines on three of four boards."""
    gpus = [
        meter(name, energy_j, idle_w=70)
        for name, energy_j in (("gpu0", 24_000), ("gpu1", 24_600), ("gpu2", 12_000), ("gpu3", 4_200))
    ]
    others = [
        meter("package-0", 9_000, kind="cpu_package"),
        meter("dram-0", 1_800, kind="dram"),
        # 18,000 J of the host and 4 x 4,200 J of the GPUs, in 60 s
        meter("bmc", 96_000, kind="server", idle_w=580, grade="integrated", sensor_class="platform"),
    ]
    engines = [
        engine("s1", ["gpu0", "gpu1"], [work("m1", requests_ok=100, output_tokens=30_000)]),
        engine("s2", ["gpu2"], [work("m2", requests_ok=10, output_tokens=3_000)]),
    ]
    return msgspec.structs.replace(window(gpus + others, engines), **changed)


def books(cover: Cover, scene: Scene) -> Books:
    """The books of this boundary, with the engines where they declare to be."""
    return keep(cover, reside(cover, scene.served, scene.declared), scene)


BOARDS = ("gpu0", "gpu1", "gpu2")
SLICES = {"gpu0": (Slice("mig0", 3), Slice("mig1", 2)), "gpu1": (Slice("mig2", 7),)}
"""Parts of boards that have a name and no meter."""
SLOTS = 7

energies_uj = st.one_of(st.just(0), st.integers(0, 10**4), st.integers(0, 10**11))
counts = st.one_of(st.none(), st.integers(0, 10**6))


@st.composite
def readings(draw: st.DrawFn, name: str, kind: str, covered: bool = False, **declared: object) -> MeterWindow:
    """One meter with any energy, coverage and idle power."""
    return MeterWindow(
        meter=Meter(
            id=name,
            kind=kind,
            grade=draw(st.sampled_from(["counter", "integrated", "modelled"])),
            sensor_class=draw(st.sampled_from(["platform", "onboard"])),
            refresh_ns=draw(st.sampled_from([0, s_to_ns(0.1)])),
            **declared,
        ),
        energy_uj=draw(energies_uj),
        covered_ns=s_to_ns(60.0 if covered else draw(st.sampled_from([0, 30, 57, 60]))),
        idle_mw=draw(st.one_of(st.none(), st.integers(0, 10**6))),
        idle_learnt=draw(st.booleans()),
        activity_ns=draw(st.none() | st.dictionaries(st.sampled_from(["", "e0", "e1", "e2"]), st.integers(0, 10**11))),
    )


@st.composite
def works(draw: st.DrawFn) -> tuple[Work, ...]:
    """Work of up to three keys, each count known or not."""
    keys = draw(st.lists(st.sampled_from([WorkKey("a"), WorkKey("a", "", "t"), WorkKey("b")]), unique=True, max_size=3))
    fields = ("requests_ok", "requests_failed", "prompt_tokens", "output_tokens", *TIME_FIELDS)
    everything = draw(st.booleans())
    one = st.integers(0, 10**6) if everything else counts
    return tuple(Work(key=key, counts=Counts(**{field: draw(one) for field in fields})) for key in keys)


@st.composite
def engines_of(draw: st.DrawFn, boards: Sequence[str], whole: bool = False) -> tuple[EngineWindow, ...]:
    """Up to three engines, on boards or slices of them, some of one group or of one phase; two may have one key. Where
    not all is whole, some are on no device or an unknown one."""
    shares = st.sampled_from([0, 300_000, 500_000, 1_000_000])
    slices = [each.id for board in boards for each in SLICES.get(board, ())]
    places = st.lists(
        st.tuples(st.sampled_from((*boards, *slices, *(() if whole else ("unknown", "?")))), shares), max_size=3
    )
    return tuple(
        EngineWindow(
            engine=Engine(
                id=f"e{number}",
                software=draw(st.sampled_from(["vllm", "sglang"])),
                devices=tuple(Reservation(*place) for place in draw(places.filter(any) if whole else places)),
                group=draw(st.sampled_from(["", "", "g"])),
                group_size=draw(st.sampled_from([0, 2])),
                phase=draw(st.sampled_from(["", "", "prefill", "decode"])),
                counts_at_finish=draw(st.booleans()),
            ),
            work=draw(works()),
            covered_ns=s_to_ns(60.0 if whole else draw(st.sampled_from([0, 57, 60]))),
            restarts=draw(st.integers(0, 3)),
            running_start=draw(st.one_of(st.none(), st.integers(0, 50))),
            running_end=draw(st.one_of(st.none(), st.integers(0, 50))),
            running_ns=draw(st.one_of(st.none(), st.integers(0, 10**12))),
        )
        for number in range(draw(st.integers(0, 3)))
    )


@st.composite
def fronts(draw: st.DrawFn) -> tuple[EngineWindow, ...]:
    """Up to two gateways, which may name boards and software as engines do."""
    return tuple(
        EngineWindow(
            engine=Engine(
                id=f"front{number}",
                software=draw(st.sampled_from(["litellm", "vllm"])),
                devices=draw(st.sampled_from([(), (Reservation("gpu0"),), (Reservation("unknown"),)])),
                group=draw(st.sampled_from(["", "g"])),
                front=True,
            ),
            work=draw(works()),
            covered_ns=s_to_ns(draw(st.sampled_from([0, 60]))),
            restarts=draw(st.integers(0, 3)),
            running_start=draw(st.none() | st.integers(0, 50)),
        )
        for number in range(draw(st.integers(0, 2)))
    )


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Any window of 60 s: boards, CPUs, a host or a server, parts and second sources of them, engines in any state, and
    fronts before them."""
    boards = draw(st.lists(st.sampled_from(BOARDS), unique=True))
    cut = {board: SLICES.get(board, ()) if draw(st.booleans()) else () for board in boards}
    meters = [draw(readings(b, "accelerator", device=b, slices=cut[b], slots=SLOTS if cut[b] else 0)) for b in boards]
    others = {
        "gpu0-again": ("accelerator", {"device": "gpu0"}),
        "slice": ("accelerator", {"inside": "gpu0"}),
        "module": ("module", {"contains": ("accelerator", "cpu_package", "dram")}),
        "package-0": ("cpu_package", {}),
        "core-0": ("cpu_core", {"inside": "package-0"}),
        "dram-0": ("dram", {}),
        "psys": ("psys", {"contains": ("cpu_package", "dram")}),
        "host": ("host", {"contains": ("cpu_package", "dram")}),
        "bmc": ("server", {"contains": ("accelerator", "host")}),
        "pdu": ("server", {}),
    }
    for name in draw(st.lists(st.sampled_from(sorted(others)), unique=True)):
        kind, declared = others[name]
        meters.append(draw(readings(name, kind, **declared)))
    return window(meters, draw(engines_of(boards)) + draw(fronts()))


@st.composite
def servers(draw: st.DrawFn) -> Window:
    """A server of which nothing is missing: its own meter tells at least what its boards, CPU and memory do."""
    boards = draw(st.lists(st.sampled_from(BOARDS), unique=True, min_size=1))
    meters = [
        draw(readings(board, "accelerator", covered=True, slices=SLICES.get(board, ()), slots=SLOTS))
        for board in boards
    ]
    meters += [draw(readings("package-0", "cpu_package", covered=True)), draw(readings("dram-0", "dram", covered=True))]
    whole = draw(readings("bmc", "server", covered=True))
    whole.energy_uj += sum(each.energy_uj for each in meters)
    return window([*meters, whole], draw(engines_of(boards, whole=True)))


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """Builders of windows and their parts, in joules, watts and seconds, `books` of a cover, and what looks at rows."""
    looks = {each.__name__: each for each in (find, keys, content, charged_j, summed, energy_only)}
    return SimpleNamespace(
        meter=meter, work=work, engine=engine, window=window, four_gpus=four_gpus, books=books, **looks, ENERGY=ENERGY
    )


@pytest.fixture(scope="session")
def generated() -> SimpleNamespace:
    """Strategies: `windows()` of any kind, `servers()` of which nothing is missing, `fronts()` to be added to them."""
    return SimpleNamespace(windows=windows, servers=servers, fronts=fronts)
