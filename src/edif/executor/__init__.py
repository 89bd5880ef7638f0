"""The processes that hold a model and run user code; started by the node agent, imported by nobody.

``python -m edif.executor FD`` is a replica's zygote: it loads the model, computes with one thread only, and
forks runners that share its weights copy-on-write.
"""
