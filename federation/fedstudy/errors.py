"""The tree of errors that reach a person: each says what happened, where, and what to do about it.

FedstudyError
├── ManifestError          a manifest is malformed or contradicts itself            exit 3   INVALID_ARGUMENT
├── DataError              a dataset does not fit the plan, or cannot be read       exit 4   FAILED_PRECONDITION
├── PlanError              a plan is malformed, or not the approved one             exit 5   FAILED_PRECONDITION
├── RefusedError           policy, approval or identity forbids it                  exit 6   PERMISSION_DENIED
├── UpdateError            an update has wrong names, shapes, digest or values      exit 7   INVALID_ARGUMENT
├── ConnectionLostError    a peer cannot be reached, or its certificate is refused  exit 8   UNAVAILABLE
├── NoSpaceError           a disk is full                                           exit 9   RESOURCE_EXHAUSTED
├── PortInUseError         a port to listen on is taken                             exit 10  UNAVAILABLE
├── StudyFailedError       a study ended without a result                           exit 11  ABORTED
└── InterruptedByUserError Ctrl-C or SIGTERM: stopped in order, can be resumed      exit 130 CANCELLED

Exit 0 is success, 1 a fault of ours (please report it), 2 wrong words on the command line.
Exits 3, 4, 5 and 6 are final for a trainer Job: trying again without a change cannot help.
"""

from __future__ import annotations

FINAL_EXIT_CODES = (3, 4, 5, 6)
"""Exit codes after which a Job is not tried again."""


class FedstudyError(Exception):
    """What went wrong in one sentence, and what a person can do about it.

    Args:
        message: what happened, with the place (field path, file, row) in it.
        remedy: what to do; a sentence of its own, may be empty.
    """

    exit_code = 1
    grpc_status = "INTERNAL"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ManifestError(FedstudyError):
    """A manifest is malformed or contradicts itself."""

    exit_code = 3
    grpc_status = "INVALID_ARGUMENT"


class DataError(FedstudyError):
    """A dataset does not fit the plan, or cannot be read."""

    exit_code = 4
    grpc_status = "FAILED_PRECONDITION"


class PlanError(FedstudyError):
    """A plan is malformed, or is not the approved one."""

    exit_code = 5
    grpc_status = "FAILED_PRECONDITION"


class RefusedError(FedstudyError):
    """Policy, approval or identity forbids what was asked."""

    exit_code = 6
    grpc_status = "PERMISSION_DENIED"


class UpdateError(FedstudyError):
    """An update has wrong names, shapes, digest or values."""

    exit_code = 7
    grpc_status = "INVALID_ARGUMENT"


class ConnectionLostError(FedstudyError):
    """A peer cannot be reached, or its certificate is refused."""

    exit_code = 8
    grpc_status = "UNAVAILABLE"


class NoSpaceError(FedstudyError):
    """A disk is full."""

    exit_code = 9
    grpc_status = "RESOURCE_EXHAUSTED"


class PortInUseError(FedstudyError):
    """A port to listen on is taken."""

    exit_code = 10
    grpc_status = "UNAVAILABLE"


class StudyFailedError(FedstudyError):
    """A study ended without a result."""

    exit_code = 11
    grpc_status = "ABORTED"


class InterruptedByUserError(FedstudyError):
    """Ctrl-C or SIGTERM: everything was stopped in order and can be resumed."""

    exit_code = 130
    grpc_status = "CANCELLED"
