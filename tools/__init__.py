"""What people use around the compiler: demonstration networks, honest timing, and ``ampc demo``.

Nothing here is imported by the compiler, and nothing here knows more of it than its public names.
"""
