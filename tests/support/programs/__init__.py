"""Random nnsight programs, drawn from a grammar, and what it takes to run and compare them.

``drawing.draw`` writes a program's source, ``payloads.payloads`` makes of it the request that the stock client would
send, ``serving.serving`` runs requests on one replica, ``results.differences`` compares what two runs returned.
"""
