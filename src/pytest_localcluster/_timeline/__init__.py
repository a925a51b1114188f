"""Timelines: what happened to the clusters of a test, as a page and as a trace.

Imported only if ``--cluster-timeline`` asks for it::

    recorder    is told what happens in the test process, and where tasks note what they do
    lane        what is known of one task;  lookout  looks when it prints and when it dies
    story       puts all of it together: rows with bars and marks, arrows between them
    trace       the story as Perfetto reads it;  page  as a browser does (page.html, .css, .js)
"""
