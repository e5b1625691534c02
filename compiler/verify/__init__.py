"""Evidence: run models in a child process, and compare what they compute.

The design had this package beside the frontend and the backend; it stands on both, since a check of a file reads it as
the frontend does, and the region of a rewrite is written as the backend does.
"""
