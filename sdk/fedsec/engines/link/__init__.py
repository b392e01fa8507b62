"""The link between a site's process and the coordinator's: what they say to each other through any engine that carries
frames from sites to the coordinator and the answers back. Sites ask, the coordinator answers: no site listens.
"""
