"""The pytest face: options, marker, fixtures, and what a report shows of a cluster.

Module level here is pytest and the standard library only, so that a suite that uses no cluster
pays nothing for this plugin; what a cluster needs is imported where one is started.
"""
