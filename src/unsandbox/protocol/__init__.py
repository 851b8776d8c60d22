"""The wire, described once: types, endpoints, signing, detection, polling, retry. Pure functions, no I/O.

But for one: with `saving`, results put the files that came with them on the disk.

Source: `shared/reference/wire-protocol.md` of the project (the protocol as 45 public clients speak it),
summarised in `docs/protocol.md`.
"""
