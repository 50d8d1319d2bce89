"""Turns the errors of pyVmomi into sentences."""

import ssl
from http.client import HTTPException
from typing import Any
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from integrations.vcenter_ports import (
    VcenterFailure,
    VcenterMissing,
    VcenterRejected,
    VcenterStateForbids,
    VcenterUnavailable,
)

MAX_MESSAGE = 300
"""Largest number of characters of a vCenter's message that are shown."""
NO_VCENTER = (ExpatError, AttributeError, KeyError, LookupError, TypeError, ValueError)
"""Errors that pyVmomi raises if the program that answers is not a vCenter, so that its answer cannot be understood."""
STATES = {"poweredOn": "powered on", "poweredOff": "powered off", "suspended": "suspended"}


def to_failure(error: BaseException, title: str) -> VcenterFailure:
    """Returns the VcenterFailure for an error of pyVmomi, or for the error of a failed task. `title` names the vCenter
    in the failure's message. Raises an error of any other kind unchanged.
    """
    match error:
        case VcenterFailure():
            return error
        case ssl.SSLCertVerificationError():
            return VcenterRejected(
                f"The certificate of {title} is not accepted: {error.verify_message}. Give its CA by"
                " TESTHIDE_VCENTER_CA, or do not check the certificate (`insecure`)."
            )
        case ssl.SSLError() if error.reason is None or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return VcenterUnavailable(f"{title} gives no answer: it has closed the connection.")
        case ssl.SSLError():
            return VcenterUnavailable(f"{title} does not speak TLS: {error.reason}.")
        case TimeoutError():
            return VcenterUnavailable(f"{title} did not answer in time.")
        case OSError():
            return VcenterUnavailable(f"{title} gives no answer: {error.strerror or error}.")
        case HTTPException():
            return _of_status(error, title)
    if isinstance(error, vmodl.MethodFault):
        return _of_fault(error, title)
    if isinstance(error, NO_VCENTER):
        return VcenterRejected(f"{title} does not answer like a vCenter.")
    raise error


def _of_status(error: HTTPException, title: str) -> VcenterFailure:
    text = str(error)[:MAX_MESSAGE] or type(error).__name__
    if text.startswith("4"):
        return VcenterRejected(f"{title} does not answer like a vCenter: {text}.")
    return VcenterUnavailable(f"{title} gives no answer: {text}.")


def _of_fault(fault: Any, title: str) -> VcenterFailure:
    message = f"{title} refuses: {_message(fault)}"
    if isinstance(fault, vim.fault.InvalidLogin):
        return VcenterRejected(f"{title} does not accept the user name or the password.")
    if isinstance(fault, vim.fault.NoPermission):
        return VcenterRejected(
            f"The account may not do this at {title}: it lacks {str(fault.privilegeId or 'a privilege')[:MAX_MESSAGE]}."
        )
    if isinstance(fault, vmodl.fault.ManagedObjectNotFound):
        return VcenterMissing(f"{title} has no such object any more.")
    if isinstance(fault, vim.fault.InvalidPowerState):
        state = STATES.get(str(fault.existingState), str(fault.existingState)[:MAX_MESSAGE])
        return VcenterStateForbids(f"The machine is {state}.")
    if isinstance(fault, vim.fault.DuplicateName):
        return VcenterStateForbids(f"{title} has something else of this name.")
    if isinstance(fault, (vim.fault.InvalidState, vim.fault.FileFault)):
        return VcenterStateForbids(message)
    if isinstance(fault, (vim.fault.NotAuthenticated, vmodl.fault.HostCommunication, vmodl.fault.SystemError)):
        return VcenterUnavailable(message)
    return VcenterRejected(message)


def _message(fault: Any) -> str:
    text = " ".join(str(fault.msg or "").split()) or type(fault).__name__.rpartition(".")[2]
    return text[:MAX_MESSAGE].rstrip(".") + "."
