"""Chaos: the whole of it on real servers and sockets, under every fault that a machine can be made to have."""
