"""The wire, described once: types, endpoints, signing, detection, polling, retry. Pure functions, no I/O.

Source: `shared/reference/wire-protocol.md` of the project (the protocol as 45 public clients speak it),
summarised in `docs/protocol.md`.
"""
