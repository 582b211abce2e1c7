"""
The parts that every measurement uses: servers, measured processes, client programs and limits.

``source.py`` and ``target.py`` run the two databases, ``processes.py`` measures a program,
``clients.py`` builds the command lines of the databases' own programs, and ``limits.py`` measures
those programs on the same rows.
"""
