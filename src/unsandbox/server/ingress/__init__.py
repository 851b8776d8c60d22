"""The ingress: visitors' requests to services, served in a process of its own.

`front` accepts connections for API and services alike, and hands those for the host of a service to the
process, which `supervisor` starts and watches. `process` is its program, `handler` what it does with a
request. Over `channel` it asks the server which service a host name means, and gets a connection to the
service.
"""
