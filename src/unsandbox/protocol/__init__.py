"""The wire, described once: types, endpoints, signing, detection, polling, retry. Pure functions, no I/O.

Large files are the exception: they lie in files without a name (`contents`, `splitting`).

Source: `shared/reference/wire-protocol.md` of the project (the protocol as 45 public clients speak it),
summarised in `docs/protocol.md`.
"""
