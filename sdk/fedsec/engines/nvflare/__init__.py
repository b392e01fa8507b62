"""NVFlare 2.9 as the distributed engine: it carries frames of the link, under mTLS, and is trusted with nothing else.

Its processes hold no key of the protocol and no notes. The site's and the coordinator's own processes import nothing of
it: they talk to its job processes over Unix sockets, and to its console through a process of its own.
"""
