"""The part of the endpoint table about processes and files of sessions."""

from __future__ import annotations

from unsandbox.protocol import contexts, files, processes
from unsandbox.protocol.endpoints.endpoint import Endpoint, Query
from unsandbox.protocol.models import WireModel

_PROCESS = "/sessions/{id}/processes/{process_id}"

PROCESSES: tuple[Endpoint, ...] = (
    Endpoint(
        name="session_exec",
        method="POST",
        path="/sessions/{id}/exec",
        request=processes.ProcessRequest,
        response=processes.ExecResult,
        body="json",
        summary="Run a program in a session to its end; one that runs long is answered with status `running`.",
    ),
    Endpoint(
        name="start_process",
        method="POST",
        path="/sessions/{id}/processes",
        request=processes.ProcessRequest,
        response=processes.Process,
        body="json",
        summary="Start a program in a session and answer at once.",
    ),
    Endpoint(
        name="list_processes",
        method="GET",
        path="/sessions/{id}/processes",
        response=processes.ProcessList,
        summary="List the processes of a session that were started through this API.",
    ),
    Endpoint(
        name="get_process",
        method="GET",
        path=_PROCESS,
        response=processes.ExecResult,
        query=(Query("wait", "number", "Seconds to wait for the end, at most 90."),),
        summary="Get a process; with its output if it has ended.",
    ),
    Endpoint(
        name="process_output",
        method="POST",
        path=f"{_PROCESS}/output",
        request=processes.OutputRequest,
        response=processes.ProcessOutput,
        body="json",
        safe=True,
        summary="Get output of a process behind a position, or wait for some.",
    ),
    Endpoint(
        name="write_process",
        method="POST",
        path=f"{_PROCESS}/stdin",
        request=processes.StdinRequest,
        response=processes.Process,
        body="json",
        summary="Write to the standard input of a process.",
    ),
    Endpoint(
        name="signal_process",
        method="POST",
        path=f"{_PROCESS}/signal",
        request=processes.SignalRequest,
        response=processes.Process,
        body="json",
        summary="Send a signal to a process and its process group.",
    ),
    Endpoint(
        name="resize_process",
        method="POST",
        path=f"{_PROCESS}/resize",
        request=processes.TerminalSize,
        response=processes.Process,
        body="json",
        idempotent=True,
        summary="Set the size of the terminal of a process.",
    ),
    Endpoint(
        name="end_process",
        method="DELETE",
        path=_PROCESS,
        response=processes.Process,
        summary="Kill a process with all of its children, and forget it.",
    ),
)

_PORTS = "/sessions/{id}/ports"

PORTS: tuple[Endpoint, ...] = (
    Endpoint(
        name="expose_port",
        method="POST",
        path=_PORTS,
        request=processes.PortRequest,
        response=processes.ExposedPort,
        body="json",
        idempotent=True,
        summary="Let visitors reach a port of a session, with a token or as a public one.",
    ),
    Endpoint(
        name="list_ports",
        method="GET",
        path=_PORTS,
        response=processes.ExposedPorts,
        summary="List the ports of a session that visitors reach.",
    ),
    Endpoint(
        name="close_port",
        method="DELETE",
        path=f"{_PORTS}/{{port}}",
        response=processes.ExposedPort,
        summary="Let visitors no longer reach a port of a session.",
    ),
)


_CONTEXT = "/sessions/{id}/contexts/{context_id}"

CONTEXTS: tuple[Endpoint, ...] = (
    Endpoint(
        name="create_context",
        method="POST",
        path="/sessions/{id}/contexts",
        request=contexts.ContextRequest,
        response=contexts.CodeContext,
        body="json",
        summary="Start an interpreter in a session that keeps its state between runs.",
    ),
    Endpoint(
        name="list_contexts",
        method="GET",
        path="/sessions/{id}/contexts",
        response=contexts.CodeContextList,
        summary="List the contexts of a session.",
    ),
    Endpoint(
        name="get_context",
        method="GET",
        path=_CONTEXT,
        response=contexts.CodeContext,
        summary="Get a context.",
    ),
    Endpoint(
        name="run_code",
        method="POST",
        path=f"{_CONTEXT}/runs",
        request=contexts.RunRequest,
        response=contexts.RunOutput,
        body="json",
        summary="Run code in a context; runs of one context follow one another.",
    ),
    Endpoint(
        name="run_output",
        method="POST",
        path=f"{_CONTEXT}/runs/{{run_id}}/output",
        request=contexts.RunOutputRequest,
        response=contexts.RunOutput,
        body="json",
        safe=True,
        summary="Get the events of a run behind a position, or wait for some.",
    ),
    Endpoint(
        name="interrupt_context",
        method="POST",
        path=f"{_CONTEXT}/interrupt",
        response=contexts.CodeContext,
        idempotent=True,
        summary="Interrupt the run of a context, as Ctrl-C does; its variables stay.",
    ),
    Endpoint(
        name="restart_context",
        method="POST",
        path=f"{_CONTEXT}/restart",
        response=contexts.CodeContext,
        summary="Replace the interpreter of a context; its variables are lost.",
    ),
    Endpoint(
        name="context_variables",
        method="GET",
        path=f"{_CONTEXT}/variables",
        response=contexts.VariableList,
        summary="List the variables of a context that runs nothing.",
    ),
    Endpoint(
        name="delete_context",
        method="DELETE",
        path=_CONTEXT,
        response=contexts.CodeContext,
        summary="End a context.",
    ),
)


def _file(
    operation: str,
    request: type[WireModel],
    summary: str,
    response: type[WireModel] = files.FileInfo,
    *,
    safe: bool = False,
    idempotent: bool = False,
) -> Endpoint:
    return Endpoint(
        name=f"file_{operation}",
        method="POST",
        path=f"/sessions/{{id}}/files/{operation}",
        request=request,
        response=response,
        body="json",
        safe=safe,
        idempotent=idempotent,
        summary=summary,
    )


FILES: tuple[Endpoint, ...] = (
    _file("stat", files.FileStatRequest, "Get the state of a file in a session.", safe=True),
    _file("read", files.FileReadRequest, "Read a part of a file, at most 3 MiB.", safe=True),
    _file("write", files.FileWriteRequest, "Write a file, or a part of a large one."),
    _file("abort", files.FileAbortRequest, "Drop the parts of an incomplete file.", idempotent=True),
    _file("list", files.FileListRequest, "List a directory.", files.FileList, safe=True),
    _file("glob", files.FileGlobRequest, "Find files by a pattern.", files.FileList, safe=True),
    _file("make_dir", files.MakeDirRequest, "Create a directory."),
    _file("move", files.FileMoveRequest, "Move or rename a file or directory."),
    _file("copy", files.FileMoveRequest, "Copy a file or directory."),
    _file("remove", files.FileRemoveRequest, "Remove a file or directory."),
    _file("realpath", files.RealPathRequest, "Resolve the links in a path.", safe=True),
    _file("chmod", files.FileModeRequest, "Change the mode bits of a file.", idempotent=True),
    _file("pack", files.FileRequest, "Write a directory as a tar archive into a temporary file."),
    _file("unpack", files.UnpackRequest, "Unpack a tar archive into a directory."),
)

WATCHES: tuple[Endpoint, ...] = (
    _file(
        "watch",
        files.FileWatchRequest,
        "Get changes of the files in a directory behind a position, or wait for some.",
        files.FileEvents,
        safe=True,
    ),
    _file("unwatch", files.FileUnwatchRequest, "End a watch.", files.FileEvents, idempotent=True),
)
