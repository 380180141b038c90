"""What a simulated fleet is made of: hardware, models and who runs what, with a mixed fleet to begin with."""

from typing import Annotated, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Boards = Annotated[int, msgspec.Meta(ge=1, le=128)]
Few = Annotated[int, msgspec.Meta(ge=0, le=32)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
ServerMeter = Literal["counter", "integrated", "none"]


class Hardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of server: its meters, and what its parts use at rest and under load.

    A `_share` is the energy of that part above its idle, for each joule of the boards above theirs.
    """

    name: Name
    boards: Boards = 8
    board_idle_w: Positive = 75.0
    board_max_w: Positive = 700.0
    cost: Positive = 1.0
    """Energy of a token against the model's own figures."""
    cpu_packages: Few = 2
    cpu_idle_w: Positive = 90.0
    """Of one package."""
    cpu_share: NotNegative = 0.05
    """Of all packages."""
    dram_domains: Few = 2
    dram_idle_w: Positive = 15.0
    """Of one domain."""
    dram_share: NotNegative = 0.01
    rest_idle_w: NotNegative = 350.0
    """Fans, power supplies, network: only the server's own meter sees them."""
    rest_share: NotNegative = 0.12
    server_meter: ServerMeter = "counter"
    """Whether the server's input is counted, told as power only, or not measured."""
    driver: str = "570.86"


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: what a token costs on hardware of cost 1, and what a request is like."""

    name: Name
    revision: str = ""
    j_per_prompt_token: NotNegative = 0.02
    j_per_output_token: Positive = 0.2
    """Energy of the boards above idle."""
    prompt_tokens: NotNegative = 1_150.0
    """Of a request; real arrivals tell their own."""
    output_tokens: Positive = 210.0
    e2e_s: Positive = 5.0
    """Time from arrival to the last token."""
    ttft_s: Positive = 0.4
    """Time from arrival to the first token."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model on one kind of hardware, on its part of the fleet's servers."""

    pool: Name
    site: str = ""
    hardware: Name
    model: Name
    weight: Positive = 1.0
    """Part of the servers, against the other deployments."""
    utilisation: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Mean power of the boards above idle, as a part of what they have."""
    swing: Share = 0.5
    """How far the day's course rises above and falls below the mean."""
    peak_h: Annotated[float, msgspec.Meta(ge=0, lt=24)] = 14.0
    """Hour of UTC with the highest load."""
    tenants: dict[str, Positive] = {}
    """Weights of their work; one nameless tenant if empty."""
    software: Name = "vllm"
    version: str = "0.9.0"


HARDWARE = (
    Hardware(name="SIM-A8"),
    Hardware(
        name="SIM-B4",
        boards=4,
        board_idle_w=45.0,
        board_max_w=350.0,
        cost=1.3,
        dram_domains=0,
        rest_idle_w=180.0,
        server_meter="integrated",
    ),
    Hardware(name="SIM-C8", board_idle_w=60.0, board_max_w=250.0, cost=0.3, cpu_packages=1, rest_idle_w=220.0),
    Hardware(name="SIM-D8", board_idle_w=90.0, board_max_w=750.0, cost=0.8, server_meter="none", driver="580.20"),
)
MODELS = (
    Model(name="sim-8b", j_per_prompt_token=0.008, j_per_output_token=0.1, e2e_s=4.0, ttft_s=0.2),
    Model(name="sim-70b", revision="fp8", j_per_prompt_token=0.06, j_per_output_token=0.8, e2e_s=10.0, ttft_s=0.7),
    Model(name="sim-moe", j_per_prompt_token=0.025, j_per_output_token=0.3, prompt_tokens=2_000.0, output_tokens=500.0),
)
_TENANTS = {"red": 0.5, "blue": 0.3, "green": 0.2}
DEPLOYMENTS = (
    Deployment(pool="chat", site="east", hardware="SIM-A8", model="sim-70b", weight=3.0, tenants=_TENANTS),
    Deployment(pool="chat", site="west", hardware="SIM-C8", model="sim-70b", weight=2.0, tenants=_TENANTS, peak_h=20.0),
    Deployment(pool="small", site="east", hardware="SIM-A8", model="sim-8b", weight=2.0, swing=0.3),
    Deployment(pool="small", site="west", hardware="SIM-B4", model="sim-8b", weight=2.0, utilisation=0.4, peak_h=20.0),
    Deployment(pool="small", site="west", hardware="SIM-C8", model="sim-8b", weight=1.0, peak_h=20.0),
    Deployment(pool="batch", site="east", hardware="SIM-D8", model="sim-moe", weight=2.0, utilisation=0.7, swing=0.1),
)
