"""Where a BMC's resources tell the power of the whole server, and what is left out because it is a part."""

from typing import Any

import pytest

from fixtures.redfish.fake_bmc import BEGIN
from fixtures.redfish.trees import GPU_UUIDS, MAKES, V1, Tree, collection, sensor, to
from joulefleet_plugins.meters.redfish_route import Document, Place, Route, told
from joulefleet_plugins.meters.redfish_tree import (
    NoServer,
    capacity_w,
    find,
    gpus,
    link,
    links,
    members,
    power_supplies,
    sensors,
    server,
)

CHASSIS = f"{V1}/Chassis/1U"


def tree(make: str, **patch: Any) -> Tree:
    return MAKES[make](350.0, 5e6, BEGIN) | patch


def power_mw(route: Route | None, resources: Tree) -> int | None:
    assert route is not None
    return told(route, resources).power_mw


@pytest.mark.parametrize(
    ("make", "name", "resources", "counts", "ac"),
    [
        ("dmtf", "environment", ["Sensors/TotalEnergyJoules", "Sensors/TotalPower"], True, False),
        ("idrac", "power_control", ["System.Embedded.1/Power"], False, False),
        ("ilo", "power_control", ["Chassis/1/Power/"], False, False),
        ("hgx", "sensors", ["Sensors/Chassis_0_TotalHSC_Power_0"], False, False),
        ("x10", "power_supplies", ["Chassis/1/Power"], False, True),
    ],
)
def test_each_make_has_one_route_to_the_whole_server(
    make: str, name: str, resources: list[str], counts: bool, ac: bool
) -> None:
    found = server(tree(make).get)
    assert (found.route.name, found.kind) == (name, "server")
    assert len(found.route.resources) == len(resources)
    assert all(path.endswith(end) for path, end in zip(found.route.resources, resources, strict=True))
    assert ((found.route.energy is not None), found.route.ac) == (counts, ac)
    assert power_mw(found.route, tree(make)) == 350_000


@pytest.mark.parametrize(
    ("make", "route", "watts_mw"),
    [
        ("dmtf", "power_control", 350_000),
        ("dmtf", "sensors", 350_000),
        ("dmtf", "power_supplies", 350_000),
        ("idrac", "sensors", 350_000),
        ("idrac", "power_supplies", 385_000),
    ],
)
def test_another_route_is_taken_where_it_is_named(make: str, route: str, watts_mw: int) -> None:
    found = server(tree(make).get, route=route)
    assert found.route.name == route
    assert power_mw(found.route, tree(make)) == watts_mw


def test_watts_of_environment_metrics_come_before_those_of_power_control() -> None:
    resources = tree("dmtf")
    metrics = resources[f"{CHASSIS}/EnvironmentMetrics"]
    del metrics["EnergyJoules"]
    del resources[f"{CHASSIS}/Sensors/TotalEnergyJoules"]
    route = find(resources.get, resources[CHASSIS])
    assert route is not None
    assert (route.name, route.energy) == ("environment", None)
    assert route.refresh_ns == 1_000_000_000


def test_a_counter_among_the_sensors_comes_before_watts_of_environment_metrics() -> None:
    resources = tree("dmtf")
    del resources[f"{CHASSIS}/EnvironmentMetrics"]["EnergyJoules"]
    route = find(resources.get, resources[CHASSIS])
    assert route is not None
    assert (route.name, route.worth) == ("sensors", 0)
    assert told(route, resources).counter_uj == 5_000_000_000_000


def test_a_value_is_read_in_environment_metrics_where_its_sensor_tells_no_time() -> None:
    resources = tree("dmtf")
    for name in ("TotalPower", "TotalEnergyJoules"):
        resources[f"{CHASSIS}/Sensors/{name}"]["ReadingTime"] = "1970-01-01T00:00:00Z"
    route = find(resources.get, resources[CHASSIS])
    assert route is not None
    assert route.resources == (f"{CHASSIS}/EnvironmentMetrics",)


def test_kilowatt_hours_are_taken_only_where_nothing_else_is_told() -> None:
    resources = tree("dmtf")
    environment = {"EnergykWh": {"Reading": 7855, "LifetimeReading": 9000}}
    only = {"EnvironmentMetrics": to(f"{CHASSIS}/EnvironmentMetrics")}
    route = find((resources | {f"{CHASSIS}/EnvironmentMetrics": environment}).get, only)
    assert route is not None
    assert (route.energy, route.unit, route.worth) == (
        Place(f"{CHASSIS}/EnvironmentMetrics", ("EnergykWh", "LifetimeReading")),
        "kWh",
        2,
    )
    route = find((resources | {f"{CHASSIS}/EnvironmentMetrics": environment}).get, resources[CHASSIS])
    assert route is not None
    assert route.name == "sensors", "and a counter of joules before both"


@pytest.mark.parametrize("value", [0, None, "N/A"])
def test_a_route_that_says_nothing_when_it_is_looked_for_is_none(value: Any) -> None:
    resources = tree("idrac")
    power = f"{V1}/Chassis/System.Embedded.1/Power"
    resources[power]["PowerControl"][0]["PowerConsumedWatts"] = value
    assert server(resources.get).route.name == "sensors"


def entries(*named: tuple[str, float]) -> Document:
    return {"PowerControl": [{"Name": name, "PowerConsumedWatts": watts} for name, watts in named]}


@pytest.mark.parametrize(
    ("document", "watts_mw"),
    [
        (entries(("CPU Sub-system Power", 120), ("Memory Power", 40), ("Chassis Power Control", 350)), 350_000),
        (entries(("Power Control", 90), ("Server Power Control", 350)), 350_000),
        (entries(("Power Control", 350), ("Power Control", 90)), 350_000),
        ({"PowerControl": [None, {"Name": "System", "PowerConsumedWatts": 350}]}, 350_000),
    ],
)
def test_of_several_entries_the_one_of_the_system_is_chosen(document: Document, watts_mw: int) -> None:
    resources = {CHASSIS: {"Power": to(f"{CHASSIS}/Power")}, f"{CHASSIS}/Power": document}
    assert power_mw(find(resources.get, resources[CHASSIS]), resources) == watts_mw


def test_where_only_parts_are_told_there_is_no_route() -> None:
    document = entries(("CPU Sub-system Power", 120), ("GPU Power Limit", 700), ("PSU1 Output", 90), ("System", 0))
    resources = {CHASSIS: {"Power": to(f"{CHASSIS}/Power")}, f"{CHASSIS}/Power": document}
    assert find(resources.get, resources[CHASSIS]) is None


@pytest.mark.parametrize(
    ("name", "context", "is_whole"),
    [
        ("total_power", None, True),
        ("SystemInputPower", None, True),
        ("SystemBoardPwrConsumption", "SystemBoard", True),
        ("TotalPower", "Chassis", True),
        ("TotalPower", "GPU", False),
        ("Total_GPU_Power", None, False),
        ("CPU1Power", "Chassis", False),
        ("PS1InputPower", "PowerSupply", False),
        ("psu0_input_power", None, False),
        ("System_Power_Limit", None, False),
        ("SystemMaxPower", "Chassis", False),
        ("Chassis_HSC_0_Power", None, False),
        ("P12V_Power", None, False),
    ],
)
def test_a_sensor_is_of_the_whole_by_its_name_and_context(name: str, context: str | None, is_whole: bool) -> None:
    path = f"{CHASSIS}/Sensors/{name}"
    resources = {
        CHASSIS: {"Id": "1U", "Sensors": to(f"{CHASSIS}/Sensors")},
        f"{CHASSIS}/Sensors": collection(path),
        path: sensor("Power", 350, PhysicalContext=context),
    }
    assert (sensors(resources.get, resources[CHASSIS]) is not None) == is_whole


def test_a_temperature_of_the_system_is_no_power() -> None:
    path = f"{CHASSIS}/Sensors/SystemInlet"
    resources = {
        CHASSIS: {"Sensors": to(f"{CHASSIS}/Sensors")},
        f"{CHASSIS}/Sensors": collection(path),
        path: sensor("Temperature", 22, PhysicalContext="Chassis"),
    }
    assert sensors(resources.get, resources[CHASSIS]) is None


def test_one_supply_that_does_not_tell_its_input_leaves_them_all_out() -> None:
    resources = tree("dmtf")
    resources[f"{CHASSIS}/PowerSubsystem/PowerSupplies/Bay2/Metrics"] = {"OutputPowerWatts": {"Reading": 160}}
    assert power_supplies(resources.get, resources[CHASSIS]) is None


def test_the_rating_is_the_largest_that_is_told() -> None:
    found = {make: server(tree(make).get).chassis for make in MAKES}
    rated = {make: capacity_w(tree(make).get, chassis) for make, chassis in found.items()}
    assert rated == {"dmtf": 2000, "idrac": 2800, "ilo": 1600, "hgx": 0, "x10": 0}


def test_of_several_systems_one_has_to_be_named() -> None:
    resources = tree("dmtf", **{f"{V1}/Systems/Node2": {"Id": "Node2"}})
    resources[f"{V1}/Systems"] = collection(f"{V1}/Systems/437XR", f"{V1}/Systems/Node2")
    with pytest.raises(NoServer) as raised:
        server(resources.get)
    assert raised.value.code == "ambiguous"
    assert "437XR, Node2" in raised.value.detail
    assert server(resources.get, "1U").route.name == "environment"
    assert server(resources.get, CHASSIS).system["Id"] == "437XR"


@pytest.mark.parametrize(
    "patch", [{"ChassisType": "Enclosure"}, {"Links": {"ComputerSystems": [to(f"{V1}/Systems/{k}") for k in (1, 2)]}}]
)
def test_a_chassis_of_several_servers_is_an_enclosure(patch: Document) -> None:
    resources = tree("dmtf")
    resources[CHASSIS] |= patch
    resources |= {f"{V1}/Systems": collection(f"{V1}/Systems/1", f"{V1}/Systems/2")}
    assert server(resources.get, "1U").kind == "enclosure"


def test_a_chassis_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(NoServer) as raised:
        server(tree("idrac").get, "1")
    assert raised.value.code == "absent"
    assert "System.Embedded.1, Enclosure.Internal.0-1" in raised.value.mend


def test_a_bmc_without_systems_has_its_only_chassis() -> None:
    resources = tree("dmtf")
    del resources[f"{V1}/Systems"]
    assert server(resources.get).system == {}


def test_a_server_without_power_is_told() -> None:
    with pytest.raises(NoServer) as raised:
        server(tree("ilo", **{f"{V1}/Chassis/1/Power/": {}}).get)
    assert raised.value.code == "no_value"


def test_a_board_of_gpus_is_no_server() -> None:
    resources = tree("hgx", **{f"{V1}/Systems": collection(f"{V1}/Systems/HGX_Baseboard_0")})
    with pytest.raises(NoServer):
        server(resources.get)


def test_gpus_are_those_that_tell_who_they_are_and_their_own_power() -> None:
    resources = tree("hgx")
    found = gpus(resources.get)
    assert [gpu.uuid for gpu in found] == list(GPU_UUIDS)
    assert [told(gpu.route, resources).counter_uj for gpu in found] == [1_750_000_000_000] * 2
    del resources[f"{V1}/Systems/HGX_Baseboard_0/Processors/GPU_0"]["UUID"]
    resources[f"{V1}/Systems/HGX_Baseboard_0/Processors/GPU_1/EnvironmentMetrics"] = {}
    assert gpus(resources.get) == []


def test_a_collection_has_pages_and_one_that_never_ends_is_left() -> None:
    resources: Tree = {
        "/a": {"Members": [to("/a/1")], "Members@odata.nextLink": "/a?skip=1"},
        "/a?skip=1": {"Members": [to("/a/2"), None, {}]},
        "/b": {"Members": [to("/b/1")], "Members@odata.nextLink": "/b"},
    }
    assert members(resources.get, "/a") == ["/a/1", "/a/2"]
    assert len(members(resources.get, "/b")) == 10
    assert members(resources.get, "/c") == []


@pytest.mark.parametrize("path", ["https://elsewhere.example/a", "//elsewhere.example/a", "a", "", None, 7])
def test_a_link_to_another_host_is_none(path: Any) -> None:
    assert link({"Power": {"@odata.id": path}}, "Power") == ""
    assert links({"Links": {"Chassis": [{"@odata.id": path}]}}, "Chassis") == []
    assert link({"Power": "rubbish"}, "Power") == ""


@pytest.mark.parametrize("rubbish", [{}, {"Members": 7}, {"Members": [7]}, {"PowerControl": "x", "Links": 3}])
def test_rubbish_in_any_resource_is_no_route_and_no_error(rubbish: Document) -> None:
    for make in MAKES:
        whole = tree(make)
        for path in whole:
            broken = whole | {path: rubbish}
            try:
                assert power_mw(server(broken.get).route, broken) in (350_000, 385_000)
            except NoServer as error:
                assert error.code
