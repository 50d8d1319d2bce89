"""Virtual machines of a vCenter, as the server knows them: its inventory."""

from typing import Literal

import msgspec

PowerState = Literal["powered_on", "powered_off", "suspended"]
"""These values are stored, so they must not change."""
PowerAction = Literal["power_on", "power_off", "reboot", "suspend"]


class VirtualMachine(msgspec.Struct, frozen=True):
    vm_id: str
    """Managed object id that the vCenter gave the machine, such as `vm-1042`."""
    name: str
    power_state: PowerState
    resource_pool: str = ""
    """Name of the machine's resource pool; empty for a template, which has none."""
    is_template: bool = False
