"""Clusters and tasks of another process, as they are used from here."""
