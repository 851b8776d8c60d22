"""The wire of E2B's clients (control plane, envd, code interpreter), translated to sessions.

Paths, members and error texts follow the clients e2b 2.13 to 2.63 and e2b-code-interpreter 2.9 to 2.11; the
schemas are in E2B's repository (`spec/openapi.yml`, `spec/envd`). Nothing here runs a program or keeps a file:
the engine does.
"""
