from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    STATISTICS: _ClassVar[Kind]
    INITIALISE: _ClassVar[Kind]
    TRAIN: _ClassVar[Kind]
    EVALUATE: _ClassVar[Kind]
    FINISH: _ClassVar[Kind]
    CANCEL: _ClassVar[Kind]
KIND_UNSPECIFIED: Kind
STATISTICS: Kind
INITIALISE: Kind
TRAIN: Kind
EVALUATE: Kind
FINISH: Kind
CANCEL: Kind

class EnrollRequest(_message.Message):
    __slots__ = ("csr_pem", "protocol")
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    csr_pem: str
    protocol: str
    def __init__(self, csr_pem: _Optional[str] = ..., protocol: _Optional[str] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("certificate_pem", "authority_pem")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: str
    authority_pem: str
    def __init__(self, certificate_pem: _Optional[str] = ..., authority_pem: _Optional[str] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OfferReply(_message.Message):
    __slots__ = ("plan", "digest")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    digest: str
    def __init__(self, plan: _Optional[bytes] = ..., digest: _Optional[str] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("plan_digest",)
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    plan_digest: str
    def __init__(self, plan_digest: _Optional[str] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("name", "digest", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    size: int
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Instruction(_message.Message):
    __slots__ = ("id", "kind", "round", "inputs", "parameters", "deadline_seconds")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: Kind
    round: int
    inputs: _containers.RepeatedCompositeFieldContainer[Input]
    parameters: bytes
    deadline_seconds: int
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[Kind, str]] = ..., round: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[Input, _Mapping]]] = ..., parameters: _Optional[bytes] = ..., deadline_seconds: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class InquireRequest(_message.Message):
    __slots__ = ("instruction_id", "digest", "size")
    INSTRUCTION_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    instruction_id: str
    digest: str
    size: int
    def __init__(self, instruction_id: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class InquireReply(_message.Message):
    __slots__ = ("offset", "accepted")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    offset: int
    accepted: bool
    def __init__(self, offset: _Optional[int] = ..., accepted: _Optional[bool] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("samples", "events", "steps", "seconds", "loss")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    samples: int
    events: int
    steps: int
    seconds: float
    loss: float
    def __init__(self, samples: _Optional[int] = ..., events: _Optional[int] = ..., steps: _Optional[int] = ..., seconds: _Optional[float] = ..., loss: _Optional[float] = ...) -> None: ...

class SubmitHeader(_message.Message):
    __slots__ = ("instruction_id", "digest", "size", "contribution")
    INSTRUCTION_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    instruction_id: str
    digest: str
    size: int
    contribution: Contribution
    def __init__(self, instruction_id: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ..., contribution: _Optional[_Union[Contribution, _Mapping]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: SubmitHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[SubmitHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("accepted", "offset")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    offset: int
    def __init__(self, accepted: _Optional[bool] = ..., offset: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("instruction_id", "samples_done", "samples_total", "loss", "seconds_left", "samples_per_second")
    INSTRUCTION_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_DONE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    instruction_id: str
    samples_done: int
    samples_total: int
    loss: float
    seconds_left: float
    samples_per_second: float
    def __init__(self, instruction_id: _Optional[str] = ..., samples_done: _Optional[int] = ..., samples_total: _Optional[int] = ..., loss: _Optional[float] = ..., seconds_left: _Optional[float] = ..., samples_per_second: _Optional[float] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("instruction_id", "code", "message", "final")
    INSTRUCTION_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    instruction_id: str
    code: str
    message: str
    final: bool
    def __init__(self, instruction_id: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., final: _Optional[bool] = ...) -> None: ...

class Preflight(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: bytes
    def __init__(self, profile: _Optional[bytes] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("progress", "failure", "preflight")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    PREFLIGHT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    failure: Failure
    preflight: Preflight
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., preflight: _Optional[_Union[Preflight, _Mapping]] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class State(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    def __init__(self, document: _Optional[bytes] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    def __init__(self, document: _Optional[bytes] = ...) -> None: ...

class DecideReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("name", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...
