"""One cluster for all workers of a run: who has it, and what others can do with it.

The *steward* is a process that the first worker starts whose tests may need such a cluster. It is
nobody's child, and has a session of its own, so that no end of that worker reaches it. It starts
the clusters itself, as any test process would: their guards and forkservers are below it, and
whoever kills it kills the tasks (see :mod:`pytest_localcluster._launch.guard`). Each worker is
connected to it from the moment that it knows its tests until it ends, and hands it a descriptor of
its own process, since a fork of the worker could keep a connection open. When no worker is
connected any more, the steward ends its clusters and itself: by the usual stops if the last one has
taken its leave, and waits for that, else at once.

``link`` is the worker's end of the connection, ``cluster`` and ``task`` are what a test sees;
``boot``, ``main`` and ``keeper`` run in the steward; ``messages`` go between the two.
"""
