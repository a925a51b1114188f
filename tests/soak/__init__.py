"""Clusters of all kinds, with faults, side by side and for long: ``make soak``.

::

    __main__   starts two runs of pytest and a stranger, waits, prints the report
    runs       those processes, and that nothing of them is left
    stranger   a process that takes ports all the while
    report     what the record comes to

    suite      the test of both runs: until the time is over, one cluster after the other
    plan       what the n-th cluster of a process is: by the seed, and by nothing else
    work       what a cluster is for
    faults     what becomes of it
    inside     what of both runs in tasks
    witness    what it held, and what of that was left; the lines of the record
"""
