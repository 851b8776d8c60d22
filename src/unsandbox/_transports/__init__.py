"""The two ways onto the network, one per client: each a class with `acquire`, `release`, `send` and `close`.

They are the only hand-written pair of the client side. Both send exactly the bytes that were signed, follow no
redirect, keep no cookie, count the waiting for a free connection not as HTTP time, and raise only errors of
`unsandbox.errors` that are also errors of their library.
"""
